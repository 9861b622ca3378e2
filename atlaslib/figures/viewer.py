"""Two viewers for looking through a scan: one needs a live kernel, the other none.

:func:`browse` is driven by a running kernel; :func:`page_viewer` is plain HTML and JavaScript, so
it also works in the rendered book, opened offline from a disk.
"""

from __future__ import annotations

import base64
import html
import io
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
import matplotlib.colors
import nibabel
import numpy as np
from nilearn import image, plotting
from numpy.typing import NDArray
from PIL import Image

from atlaslib.data.cohort import Scan
from atlaslib.data.slices import normalise
from atlaslib.data.volumes import Volume, read_scan
from atlaslib.figures import COLOURS

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the array axis that each plane cuts


def slice_picture(
    grey: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    plane: str = "axial",
    index: int = 0,
    overlay: bool = True,
) -> NDArray[np.uint8]:
    """One slice of a volume in colour, oriented as described under `plane`.

    Parameters
    ----------
    grey : (X, Y, Z) uint8
        A volume in RAS order.
    mask : (X, Y, Z) bool
    plane : {"axial", "coronal", "sagittal"}
        Axial: anterior up; the other two: superior up. The patient's left is on the left;
        in the sagittal plane anterior is on the right.
    index : int
        Position along the axis that the plane cuts, in voxels.
    overlay : bool, default=True
        Whether to tint the lesion.

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    ValueError
        If the plane is none of the three.
    """
    if plane not in PLANES:
        raise ValueError(f"plane must be one of {', '.join(PLANES)}, not {plane!r}")
    cut = np.rot90(np.take(grey, index, axis=PLANES[plane]))
    picture = np.repeat(cut[..., None], 3, axis=2)
    if overlay:
        inside = np.rot90(np.take(mask, index, axis=PLANES[plane]))
        tint = 255 * np.array(matplotlib.colors.to_rgb(COLOURS["lesion"]))
        picture[inside] = (0.45 * picture[inside] + 0.55 * tint).astype(np.uint8)
    return picture


# What nilearn's page does not have: a title, a switch for the lesion, and a frame of its height.
# `viewed` is nilearn's viewer, `slices` those through the lesion's middle.
_HEAD = """<style>
body {{ margin: 0; background: #000; color: #fff; font: 1rem sans-serif; }}
h1, label {{ display: block; margin: 0; padding: .5rem; font-size: 1rem; }}
div:has(> .slider) {{ display: none !important; }}
div:has(> canvas) {{ min-width: 44rem; }}  /* on a phone two of the three planes, then scroll */
@media print {{ div:has(> canvas) {{ min-width: 0; }} canvas {{ max-width: 100%; }} }}
</style><h1>{title}</h1>"""
_SWITCH = """<label><input type="checkbox" id="lesion"> Show the lesion</label><script>
document.getElementById("lesion").onchange = function () {{
  viewed.overlay.opacity = this.checked ? 0.6 : 0;
  if (this.checked) viewed.numSlice = {slices};
  viewed.init(); viewed.drawAll();
}};
new ResizeObserver(function () {{
  if (window.frameElement) frameElement.style.height = document.body.scrollHeight + "px";
}}).observe(document.body);
</script>"""


@dataclass(frozen=True)
class PageViewer:
    """A page with a viewer; shows itself, in a frame, as the last line of a cell."""

    page: str = field(repr=False)
    title: str

    def _repr_html_(self) -> str:
        """A frame as wide as its surroundings; the page in it sets its height."""
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{html.escape(self.page)}" '
            'style="width: 100%; height: 320px; border: 0"></iframe>'
        )


def page_viewer(scan: Scan, step: int = 2) -> PageViewer:
    """A viewer of three linked planes that needs no kernel and no network.

    It opens in the middle of the head, without the lesion, which can be switched on.

    Parameters
    ----------
    scan : Scan
    step : int, default=2
        Voxels averaged along each axis; 2 keeps the page small (under a megabyte), 1 keeps
        every voxel.

    Returns
    -------
    PageViewer

    Raises
    ------
    ValueError
        If `step` is less than 1.
    """
    if step < 1:
        raise ValueError(f"step, a number of voxels, must be at least 1, not {step}")
    volume = read_scan(scan)
    affine = coarse_affine(volume.affine, step)
    grey = block_mean(normalise(volume.t1).astype(np.float32), step)
    # any lesion voxel marks its block: a small lesion must not vanish from the page
    mask = (block_mean(volume.mask.astype(np.float32), step) > 0).astype(np.float32)
    # without the dark around the head, which in some scans is a noisy grey, so that it is large
    whole = nibabel.Nifti1Image(np.maximum(grey, mask), affine)
    _, head = image.crop_img(whole, rtol=0.2, return_offset=True)
    pictures = [nibabel.Nifti1Image(part, affine).slicer[head] for part in (grey, mask)]
    colour = matplotlib.colors.LinearSegmentedColormap.from_list("lesion", [COLOURS["lesion"]] * 2)
    with warnings.catch_warnings():
        # nilearn warns that it resamples the mask, but to its own grid: nothing changes
        warnings.simplefilter("ignore")
        view = plotting.view_img(
            pictures[1],
            bg_img=pictures[0],
            cut_coords=_centre(mask, affine),
            threshold=0.5,
            cmap=colour,
            vmin=0,
            vmax=1,
            symmetric_cmap=False,
            black_bg=True,
            colorbar=False,
            opacity=0,
            resampling_interpolation="nearest",
        )
    title = f"Scan {scan.name} ({scan.site})"
    return PageViewer(_with_switch(view.html, title), title)


def _with_switch(page: str, title: str) -> str:
    """nilearn's page with a title and a switch, opening in the middle."""
    # the page's icon is the one thing that nilearn would fetch from the network
    page = re.sub(r"<link[^>]*icon[^>]*>", "", page)
    page = re.sub(r"<title>.*?</title>", f"<title>{html.escape(title)}</title>", page, count=1)
    page = re.sub(r"data:image/png;base64,([\w+/=]+)", _smaller, page)
    slices = re.search(r'"numSlice": (\{[^}]*\})', page)
    if slices is None or not re.search(r"\bbrainsprite\(\s*\{", page):
        raise RuntimeError("this version of nilearn is not supported: its page is made differently")
    page = page.replace(slices[1], "false", 1)  # its middle
    page = re.sub(r"\bbrainsprite\(\s*\{", "window.viewed = brainsprite({", page, count=1)
    page = page.replace("<body>", "<body>" + _HEAD.format(title=html.escape(title)), 1)
    return page.replace("</body>", _SWITCH.format(slices=slices[1]) + "</body>", 1)


def _smaller(encoded: re.Match[str]) -> str:
    """A grey picture, which nilearn writes losslessly in four channels, as WebP if that is less."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded[1])))
    red, green, blue, opacity = np.moveaxis(np.asarray(picture.convert("RGBA")), -1, 0)
    if not ((red == green) & (green == blue) & (opacity == 255)).all():
        return encoded[0]
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="webp", quality=90)
    smaller = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return min(smaller, encoded[0], key=len)


def block_mean(volume: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """The mean of each cube of ``step`` voxels a side; the far edges are padded with zeros."""
    padded = np.pad(volume, [(0, -size % step) for size in volume.shape])
    shape = [part for size in padded.shape for part in (size // step, step)]
    return padded.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)


def coarse_affine(affine: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """The affine of :func:`block_mean`'s result: its voxel centres are the cubes' centres."""
    scale = np.diag([step, step, step, 1.0])
    scale[:3, 3] = (step - 1) / 2
    return np.asarray(affine, dtype=float) @ scale


def _centre(mask: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[float, ...] | None:
    """The lesion voxel nearest to the lesion's centre, in mm; None if there is no lesion."""
    inside = np.argwhere(mask > 0)
    if not len(inside):
        return None
    middle = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return tuple(float(value) for value in nibabel.affines.apply_affine(affine, middle))


@dataclass
class _Browser:
    """The controls of :func:`browse` and what they show."""

    grey: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    plane: Any
    index: Any
    overlay: Any
    screen: Any
    caption: Any

    def draw(self, _change: Any = None) -> None:
        """Show the chosen slice."""
        index = min(self.index.value, self.index.max)
        picture = slice_picture(
            self.grey, self.mask, self.plane.value, index, overlay=self.overlay.value
        )
        self.screen.value = png(picture)
        area = int(np.take(self.mask, index, axis=PLANES[self.plane.value]).sum())
        self.caption.value = f"{area:,} lesion pixels in this slice"

    def change_plane(self, _change: Any = None) -> None:
        """Adapt the slider to the chosen plane, and start where the lesion is largest."""
        self.index.max = self.grey.shape[PLANES[self.plane.value]] - 1
        self.index.value = fullest(self.mask, self.plane.value)
        self.draw()


def fullest(mask: NDArray[np.bool_], plane: str = "axial") -> int:
    """The slice of `plane` with the most lesion; the middle one if there is no lesion."""
    axis = PLANES[plane]
    areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return int(areas.argmax()) if areas.any() else mask.shape[axis] // 2


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (rows, columns, 3) as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


def browse(scan: Scan | Volume) -> ipywidgets.VBox:
    """A slice browser for a live kernel: plane, slice and lesion overlay.

    Parameters
    ----------
    scan : Scan or Volume
        A scan on disk, or a volume that is already in memory.

    Returns
    -------
    ipywidgets.VBox
        Works with ipywidgets 7.7 (Colab) and 8. Without a kernel the slider would do nothing:
        pages use :func:`page_viewer`.
    """
    volume = read_scan(scan) if isinstance(scan, Scan) else scan
    browser = _Browser(
        grey=normalise(volume.t1),
        mask=volume.mask,
        plane=ipywidgets.Dropdown(options=list(PLANES), value="axial", description="Plane"),
        index=ipywidgets.IntSlider(min=0, max=volume.mask.shape[2] - 1, description="Slice"),
        overlay=ipywidgets.Checkbox(value=True, description="Show the lesion mask"),
        screen=ipywidgets.Image(format="png", width=420),
        caption=ipywidgets.Label(),
    )
    browser.change_plane()
    browser.plane.observe(browser.change_plane, names="value")
    browser.index.observe(browser.draw, names="value")
    browser.overlay.observe(browser.draw, names="value")
    controls = ipywidgets.HBox([browser.plane, browser.index, browser.overlay])
    return ipywidgets.VBox([controls, browser.screen, browser.caption])
