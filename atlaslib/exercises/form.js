// An exercise's form: the same rules and words as answers.py, which checks an answer in a notebook.
"use strict";
window.atlaslib = window.atlaslib || {};
(function (atlaslib) {
  const GROUPED = /^[+-]?[1-9]\d{0,2}([,. ']\d{3})+$/; // 1,560 may be meant as 1560
  const NUMBER = /^[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?$/i;

  // The numbers that a text can mean; none if it is not a number.
  function readings(text) {
    const typed = text.replace(/\s+/g, " ").trim().replaceAll("\u2212", "-");
    const plain = typed.replace(/ ?%$/, "");
    const found = [];
    if (NUMBER.test(plain)) found.push(Number(plain.replace(",", ".")));
    if (GROUPED.test(plain)) found.push(Number(plain.replace(/[,. ']/g, "")));
    return plain === typed ? found : [...found, ...found.map((value) => value / 100)];
  }

  function onNumber({ answer, tolerance, right, hints, otherwise }, text, words) {
    if (!text.trim()) return [null, words.noNumber];
    const values = readings(text);
    if (!values.length) return [null, words.notANumber];
    const anyIs = (target) => {
      // as near as to the answer, or in proportion to a smaller number
      const slack = tolerance * (answer ? Math.min(1, Math.abs(target / answer)) : 1);
      return values.some((value) => Math.abs(value - target) <= slack + 1e-9 * Math.abs(target));
    };
    if (anyIs(answer)) return [true, right];
    const hint = hints.find(({ to }) => anyIs(to));
    return [false, hint ? hint.say : otherwise];
  }

  function onChoice({ answer, options }, letter, words) {
    if (!letter) return [null, words.noChoice];
    return [letter === answer, options["abcdefgh".indexOf(letter)].say];
  }

  // Make the form with this id answer; it may be called again.
  atlaslib.exercise = function (id, { exercise, words }) {
    const form = document.getElementById(id).querySelector("form");
    const output = form.querySelector("output");
    const show = (state, ...content) => {
      output.className = state;
      output.replaceChildren(...content);
    };
    Object.assign(form.querySelector("button"), { hidden: false, disabled: false });
    form.onsubmit = (event) => {
      event.preventDefault();
      const text = form.elements.answer.value; // of radio buttons: that of the chosen one, or ""
      const judge = exercise.options ? onChoice : onNumber;
      const [right, said] = judge(exercise, text, words);
      if (right === null) return show("none", said);
      const verdict = document.createElement("strong");
      verdict.textContent = right ? words.right : words.wrong;
      show(right ? "right" : "wrong", verdict, said);
    };
    form.oninput = () => show(""); // what was said does not hold for another answer
  };
})(window.atlaslib);
