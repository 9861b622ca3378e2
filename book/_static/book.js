/* What the theme leaves out for readers with a keyboard, a screen reader, a printer or a phone. */

function nameParts() {
  for (const summary of document.querySelectorAll(".bd-links summary")) {
    const page = summary.closest("li").querySelector("a").textContent.trim();
    summary.setAttribute("aria-label", `Pages below ${page}`);
  }
  const sidebar = document.querySelector("#pst-primary-sidebar");
  sidebar?.setAttribute("role", "region");
  sidebar?.setAttribute("aria-label", "Book");
}

/* Sphinx sets the parameters of a long signature as definitions without terms. */
function plainSignatures() {
  for (const part of document.querySelectorAll("dt.sig dd, dt.sig dl")) {
    const plain = document.createElement("div");
    if (part.tagName === "DD") plain.className = "parameter";
    plain.append(...part.childNodes);
    part.replaceWith(plain);
  }
}

/* docutils gives bibliography entries a role that ARIA does not allow within a list. */
function listReferences() {
  for (const entry of document.querySelectorAll("[role=doc-biblioentry]")) entry.role = "listitem";
}

/* A column of row names has no heading: its first cell heads nothing. */
function emptyHeadings() {
  for (const head of document.querySelectorAll("th")) {
    if (head.textContent.trim()) continue;
    const cell = document.createElement("td");
    cell.className = head.className;
    head.replaceWith(cell);
  }
}

/* The long name of a column is broken at its underscores. */
function breakNames() {
  for (const head of document.querySelectorAll("table.dataframe th")) {
    if (head.childElementCount) continue;
    const parts = head.textContent.split("_");
    head.replaceChildren(...parts.flatMap((part, k) => (k ? [`_`, document.createElement("wbr"), part] : [part])));
  }
}

/* On a phone a picture of several panels scrolls in its own box instead of shrinking to stamps: one
   that is much wider than high, or that its cell calls "wide". */
function markWidePictures() {
  for (const picture of document.querySelectorAll(".bd-article figure > img")) {
    const mark = () => {
      // on paper a high one may fill a page
      picture.classList.toggle("high", picture.naturalHeight > 1.5 * picture.naturalWidth);
      const wide = picture.naturalWidth >= Math.max(600, 1.8 * picture.naturalHeight);
      if (!wide && !picture.classList.contains("wide")) return;
      picture.classList.add("wide");
      // so that the arrow keys scroll it
      if (matchMedia("(max-width: 600px)").matches) picture.parentElement.tabIndex = 0;
    };
    picture.complete ? mark() : picture.addEventListener("load", mark);
  }
}

/* On a phone printed sentences wrap, and what keeps its columns says that it scrolls. */
function markWideOutputs() {
  for (const output of document.querySelectorAll("div.cell_output div.output")) {
    const printed = output.querySelector("pre");
    if (printed && !/\S {2,}\S/.test(printed.textContent)) printed.classList.add("sentences");
    const box = printed ?? output;
    if (matchMedia("(max-width: 600px)").matches && box.scrollWidth > box.clientWidth + 1) {
      output.classList.add("scrolls");
    }
  }
}

/* Paper is white. */
function printLight() {
  const root = document.documentElement;
  let theme = root.dataset.theme;
  matchMedia("print").addEventListener("change", (print) => {
    if (print.matches) theme = root.dataset.theme;
    root.dataset.theme = print.matches ? "light" : theme;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  nameParts();
  plainSignatures();
  listReferences();
  emptyHeadings();
  breakNames();
  markWidePictures();
  markWideOutputs();
  printLight();
});
