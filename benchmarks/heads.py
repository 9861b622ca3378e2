"""Score networks on real heads, each with painted lesions and without.

    python benchmarks/heads.py FOLDER [--pretrained NAME ...] [--run RUN ...] [--whole-head]
                               [--out TABLE.csv] [--picture HEAD OUT.png]

:mod:`atlaslib.evaluation.heads` says what the folder contains. The table has one row per network
and scan, with the digests of the scans and of the weights; what is printed has one row per head.
The picture shows a small, a medium and a large lesion of a head, and what each network marks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import atlaslib
from atlaslib import DataError
from atlaslib.data.slices import normalise, to_slices
from atlaslib.data.volumes import read_scan
from atlaslib.evaluation.heads import by_head, open_heads, score_heads
from atlaslib.evaluation.predictor import Trained
from atlaslib.figures.base import DPI, colour, cropped, in_rows, png, show_slice
from atlaslib.files import atomic_write

SHOWN = 3  # lesions in the picture


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score networks on real heads.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--pretrained", action="append", default=[], metavar="NAME")
    parser.add_argument("--run", action="append", default=[], type=Path, metavar="RUN")
    parser.add_argument("--whole-head", action="store_true", help="also outside the brain")
    parser.add_argument("--out", type=Path, metavar="TABLE.csv")
    parser.add_argument("--picture", nargs=2, metavar=("HEAD", "OUT.png"))
    args = parser.parse_args(arguments)
    if not (args.pretrained or args.run):
        parser.error("name a network: --pretrained NAME or --run RUN")
    try:
        networks: dict[str, Trained] = {
            name: atlaslib.load_pretrained(name) for name in args.pretrained
        }
        networks |= {folder.name: atlaslib.load_run(folder) for folder in args.run}
        table = score_heads(networks, args.folder, not args.whole_head)
        print(by_head(table).to_string(index=False, float_format="{:.3f}".format))
        if args.out:
            atomic_write(
                args.out, lambda name: table.to_csv(name, index=False, float_format="%.6g")
            )
        if args.picture:
            picture(networks, args.folder, *args.picture, brain_only=not args.whole_head)
    except DataError as error:
        print(f"heads: {error}", file=sys.stderr)
        return 1
    return 0


def picture(
    networks: Mapping[str, Trained], folder: Path, head: str, out: str, brain_only: bool
) -> None:
    """Draw lesions of one head, from small to large, in the axial slice where each is widest."""
    cohort, _, about = open_heads(folder)
    names = dict(zip(about["site"], about["name"], strict=True))
    scans = [scan for scan in cohort if names.get(scan.site, scan.site) == head]
    if not scans:
        known = sorted({names.get(scan.site, scan.site) for scan in cohort})
        raise DataError(f"{folder}: no head {head!r}; found {', '.join(known)}")
    volumes = [int(read_scan(scan).mask.sum()) for scan in scans]
    shown = min(SHOWN, len(scans))
    ranks = (2 * np.arange(shown) + 1) * len(scans) // (2 * shown)  # evenly spread, all different
    figure, axes = in_rows(shown * (1 + len(networks)), height=4.4)
    places = iter(axes)
    for place in np.argsort(volumes)[ranks]:
        volume = read_scan(scans[place])
        image, mask = (to_slices(each) for each in (normalise(volume.t1), volume.mask))
        z = int(mask.sum((1, 2)).argmax())
        predictions = (atlaslib.predict(net, scans[place], brain_only) for net in networks.values())
        marked = [to_slices(np.asarray(each.dataobj))[z] for each in predictions]
        head_alone, painted, *marked = cropped(image[z], mask[z], *marked)
        title = f"painted: {volumes[place] / 1000:.1f} mL"
        show_slice(next(places), head_alone, painted, title=title)
        for name, outline in zip(networks, marked, strict=True):
            found = "" if outline.any() else ": nothing"
            show_slice(next(places), head_alone, outline, colour(name), name + found)
    atomic_write(Path(out), lambda name: Path(name).write_bytes(png(figure, DPI)))


if __name__ == "__main__":
    sys.exit(main())
