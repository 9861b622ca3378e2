"""What reading costs: atlaslib's slice cache beside MONAI, TorchIO and a plain Dataset.

    python benchmarks/data.py [--scans 24] [--root FOLDER] [--out FILE.json]

Every reader delivers the same slices of the same files: each axial slice once per epoch, shuffled,
in batches of 16, as float32 images and masks (n, 1, 232, 196); atlaslib also as the bytes that its
training uses, which the device scales as part of the first step. The mask is the union of the
scan's masks above 0. Images differ in scale: each reader uses the percentiles usual for it.

Each measurement runs in a fresh process (imports are not timed) with an empty cache folder: one
process for the warm rate and, for each number of workers, five from NIfTI files to the end of the
first epoch, of which the fastest counts and gives the peak memory. The gunzip time is the best of
five, too. All files are in the page cache throughout. It reads /proc and so needs Linux.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from isal import igzip
from torch.utils.data import DataLoader

from atlaslib import Cohort, Scan, SliceDataset, load_cohort, make_cohort
from atlaslib.data.slices import SLICE
from atlaslib.data.volumes import GRID
from atlaslib.files import atomic_write

BATCH = 16
WORKERS = (0, 2)  # of the data loader; the better one counts
TRIES = 5  # the fastest counts: other programs can only slow a try down
SECONDS = 5  # for this long whole epochs are repeated to measure the warm rate
DEPTH = GRID[2]  # slices in a scan
HELD = 4  # volumes whose slices are shuffled together by readers that stream volumes
SAMPLE = 64  # slices that slow readers are timed on; all slices take about the same time

Batch = tuple[torch.Tensor, torch.Tensor]
Epoch = Callable[[int], Iterable[Batch]]  # one epoch with this many workers

# --- readers: each takes a cohort and an empty folder, prepares itself and returns its epochs ----


def loader(order: Sequence, read: Callable[[list], Batch], workers: int) -> DataLoader:
    """Batches that ``read`` makes from shuffled indices, in worker processes if there are any."""
    fork = "fork" if workers else None  # workers share the reader's memory
    return DataLoader(order, BATCH, True, num_workers=workers, collate_fn=read,
                      multiprocessing_context=fork)  # fmt: skip


def atlaslib(cohort: Cohort, folder: Path) -> Epoch:
    os.environ["ATLASLIB_HOME"] = str(folder)  # where the cache is written
    slices = SliceDataset(cohort, progress=False)

    def read(chosen: list[int]) -> Batch:
        images, masks = slices.gather(chosen)  # bytes
        # numpy divides bytes in one pass, torch in two
        scaled = np.divide(images.numpy(), np.float32(255), dtype=np.float32)
        return torch.from_numpy(scaled).unsqueeze(1), masks.unsqueeze(1).float()

    return lambda workers: loader(range(len(slices)), read, workers)


def atlaslib_bytes(cohort: Cohort, folder: Path) -> Epoch:
    """As ``atlaslib.train`` reads the cache: bytes, shuffled, without a DataLoader."""
    os.environ["ATLASLIB_HOME"] = str(folder)
    slices = SliceDataset(cohort, progress=False)

    def epoch(workers: int) -> Iterator[Batch]:
        for chosen in torch.randperm(len(slices)).split(BATCH):
            images, masks = slices.gather(chosen.numpy())
            yield images.unsqueeze(1), masks.unsqueeze(1)

    return epoch


def union(masks: torch.Tensor) -> torch.Tensor:
    """One channel of 0 and 1, as bytes: float32 would take four times the memory."""
    return (masks > 0).any(0, keepdim=True).to(torch.uint8)


def monai_volumes(cohort: Cohort) -> tuple[list[dict[str, object]], Callable]:
    """The usual transforms, but oriented to SPR and ending in plain contiguous tensors.

    MONAI's tutorials orient to RAS and slice the last axis, which uses one voxel of each cache
    line and is seven times slower. Tensors that track metadata (the default) are slow to slice.
    """
    import monai.transforms as mt

    both = ["image", "mask"]
    steps = [
        mt.LoadImaged(both),  # a list of files becomes channels
        mt.EnsureChannelFirstd(both),
        mt.Lambdad("mask", union),
        mt.Orientationd(both, axcodes="SPR", labels=None),
        mt.ScaleIntensityRangePercentilesd("image", 1, 99, 0, 1, clip=True),
        mt.SpatialCropd(both, roi_start=(0, 0, 0), roi_end=(DEPTH, *SLICE)),
        mt.EnsureTyped(both, track_meta=False),
        mt.Lambdad(both, torch.Tensor.contiguous, track_meta=False),
    ]
    files = [{"image": str(scan.t1), "mask": [str(path) for path in scan.masks]} for scan in cohort]
    return files, mt.Compose(steps)


def cut(volumes: Sequence, chosen: list[int]) -> Batch:
    """A batch of slices of MONAI's volumes."""
    places = [(volumes[i // DEPTH], i % DEPTH) for i in chosen]
    images, masks = (torch.stack([v[key][:, z] for v, z in places]) for key in ("image", "mask"))
    return images, masks.float()


def monai_cache(cohort: Cohort, folder: Path) -> Epoch:
    """Random slices of volumes that are all in memory.

    Not GridPatchDataset with ShuffleBuffer, as in MONAI's tutorial on 2-D slices: it takes several
    times as long per slice, shuffles only within its buffer, and with two workers loses half of
    the slices, because each of the two classes divides them among the workers.
    """
    from monai.data import CacheDataset

    # num_workers=None: one thread per core fills the cache
    volumes = CacheDataset(*monai_volumes(cohort), num_workers=None, progress=False)
    slices = range(len(volumes) * DEPTH)
    return lambda workers: loader(slices, lambda chosen: cut(volumes, chosen), workers)


def monai_disk(cohort: Cohort, folder: Path) -> Epoch:
    """Workers read volumes in random order; slices of a few are shuffled, as in TorchIO's Queue.

    This mixes slices less than the readers above, which shuffle all of them.
    """
    from monai.data import PersistentDataset

    volumes = PersistentDataset(*monai_volumes(cohort), cache_dir=folder)

    def epoch(workers: int) -> Iterator[Batch]:
        stream = iter(DataLoader(volumes, batch_size=None, shuffle=True, num_workers=workers))
        while held := [volume for _, volume in zip(range(HELD), stream, strict=False)]:
            for chosen in torch.randperm(len(held) * DEPTH).split(BATCH):
                yield cut(held, chosen.tolist())

    return epoch


def monai_disk_mixed(cohort: Cohort, folder: Path) -> Epoch:
    """All slices shuffled: each reads a volume of 43 MB, as it would with RandSpatialCropd."""
    from monai.data import PersistentDataset

    volumes = PersistentDataset(*monai_volumes(cohort), cache_dir=folder)
    for _ in DataLoader(volumes, batch_size=None, num_workers=max(WORKERS)):
        pass  # fills the cache
    some = torch.randperm(len(cohort) * DEPTH)[:SAMPLE].tolist()
    return lambda workers: loader(some, lambda chosen: cut(volumes, chosen), workers)


def torchio(cohort: Cohort, folder: Path) -> Epoch:
    """TorchIO's Queue, with a sampler that takes each slice once. Each epoch rereads the files."""
    import torchio as tio

    def subject(scan: Scan) -> tio.Subject:
        return tio.Subject(image=tio.ScalarImage(scan.t1), mask=tio.LabelMap(list(scan.masks)))

    steps = [
        tio.Lambda(union, types_to_apply=[tio.LABEL]),
        tio.ToOrientation("SPR"),
        tio.Crop((0, 0, 0, GRID[1] - SLICE[0], 0, GRID[0] - SLICE[1])),
        tio.RescaleIntensity((0, 1), percentiles=(1, 99)),
    ]
    volumes = tio.SubjectsDataset([subject(scan) for scan in cohort], tio.Compose(steps))
    # the sampler takes the shape from a subject: one of zeros saves reading a file
    shape = tio.Subject(image=tio.ScalarImage(tensor=torch.zeros(1, DEPTH, *SLICE)))
    sampler = tio.GridSampler(shape, (1, *SLICE))

    def epoch(workers: int) -> Iterator[Batch]:
        # a whole number of volumes: slices of one that did not fit would be delivered twice
        queue = tio.Queue(volumes, HELD * DEPTH, DEPTH, sampler, num_workers=workers)
        for batch in tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0):
            yield batch["image"]["data"][:, :, 0], batch["mask"]["data"][:, :, 0].float()

    return epoch


def plain_slice(scan: Scan, z: int) -> Batch:
    """What everyone writes first: each slice opens its files, which are assumed to be RAS."""
    import nibabel as nib

    def cut(path: Path) -> torch.Tensor:
        voxels = np.rot90(np.asarray(nib.load(path).dataobj[..., z]))[: SLICE[0], : SLICE[1]]
        return torch.from_numpy(voxels.astype(np.float32))[None]

    return cut(scan.t1) / 255, union(torch.cat([cut(path) for path in scan.masks])).float()


def plain(cohort: Cohort, folder: Path) -> Epoch:
    def read(chosen: list[int]) -> Batch:
        images, masks = zip(*(plain_slice(cohort[i // DEPTH], i % DEPTH) for i in chosen))  # noqa: B905
        return torch.stack(images), torch.stack(masks)

    some = torch.randperm(len(cohort) * DEPTH)[:SAMPLE].tolist()
    return lambda workers: loader(some, read, workers)


READERS = {  # function, module to import before timing starts, name in the table
    "atlaslib": (atlaslib, "atlaslib.data.slices", "atlaslib"),
    "atlaslib-bytes": (atlaslib_bytes, "atlaslib.data.slices", "atlaslib, bytes"),
    "monai-cache": (monai_cache, "monai.data", "MONAI CacheDataset"),
    "monai-disk": (monai_disk, "monai.data", "MONAI PersistentDataset"),
    "monai-disk-mixed": (monai_disk_mixed, "monai.data", "MONAI PersistentDataset, mixed"),
    "torchio": (torchio, "torchio", "TorchIO Queue"),
    "plain": (plain, "nibabel", "plain nibabel"),
}
# their cold time is not measured: they fill the same cache as the readers above them
WARM_ONLY = ("atlaslib-bytes", "monai-disk-mixed")
NOTES = f"""MONAI's CacheDataset holds all volumes in memory, the others do not. TorchIO and the
plain reader have no cache. The reader of bytes uses no workers. PersistentDataset and TorchIO
shuffle the slices of {HELD} scans at a time, the others (and "mixed") all slices. "Mixed" and the
plain reader are extrapolated from {SAMPLE} random slices."""

# --- measuring, in one process per reader --------------------------------------------------------


def run_epochs(
    epoch: Epoch, workers: int, seconds: float = 0, dtype: torch.dtype = torch.float32
) -> tuple[int, float]:
    """Slices delivered, and the time: whole epochs, the last begun within ``seconds``."""
    count, begun = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begun < seconds:
        for images, masks in epoch(workers):
            assert images.shape == masks.shape == (len(images), 1, *SLICE)
            assert images.dtype == masks.dtype == dtype
            count += len(images)
    return count, time.perf_counter() - begun


def measure_warm(name: str, cohort: Cohort, folder: Path) -> list[float]:
    """Slices a second for each number of workers."""
    epoch = READERS[name][0](cohort, folder)
    if name == "monai-disk":
        run_epochs(epoch, max(WORKERS))  # fills the cache
    dtype = torch.uint8 if name == "atlaslib-bytes" else torch.float32
    found = [run_epochs(epoch, workers, SECONDS, dtype) for workers in WORKERS]
    return [count / seconds for count, seconds in found]


def measure_cold(name: str, cohort: Cohort, folder: Path, workers: int) -> dict[str, float]:
    """From files to the end of the first epoch: seconds, disk space of the cache, memory."""
    begun = time.perf_counter()
    count, _ = run_epochs(READERS[name][0](cohort, folder), workers)
    seconds = time.perf_counter() - begun
    whole = len(cohort) * DEPTH
    if name != "plain" and count != whole:
        raise SystemExit(f"{name}: delivered {count} slices, expected {whole}")
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers else 0
    return {
        "cold, s": seconds * whole / count,
        "on disk, MB": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6,
        "peak, MB": memory("VmHWM"),
        "mapped, MB": memory("RssFile"),  # page cache, which the system takes back when it must
        "peak of a worker, MB": worker * 1024 / 1e6,  # with what it shares
    }


def memory(key: str) -> float:
    """MB from /proc; ru_maxrss would start at the parent's peak."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else np.nan


def measure_limits(cohort: Cohort) -> dict[str, float]:
    """Seconds to gunzip the same files on all cores, and the GB/s that one thread copies."""
    paths = [path for scan in cohort for path in (scan.t1, *scan.masks)]
    source = np.ones(2**28, np.uint8)
    target = source.copy()
    with ThreadPoolExecutor(cores()) as pool:

        def fastest(unpack: Callable[[bytes], bytes]) -> float:
            def all_files() -> list[int]:
                return list(pool.map(lambda path: len(unpack(path.read_bytes())), paths))

            return min(timeit.repeat(all_files, number=1, repeat=TRIES))

        seconds, isal = fastest(gzip.decompress), fastest(igzip.decompress)
    copy = min(timeit.repeat(lambda: np.copyto(target, source), number=1, repeat=5))
    return {
        "files": len(paths),
        "gunzip, s": seconds,
        "gunzip by isal, s": isal,
        "copy, GB/s": 2**28 / copy / 1e9,
    }


def measure(args: argparse.Namespace) -> object:
    cohort = load_cohort(args.root).labelled[: args.scans]
    if args.reader == "limits":
        return measure_limits(cohort)
    importlib.import_module(READERS[args.reader][1])
    # one thread per process, as in a loader's workers: beside other busy programs, threads that
    # synchronise after every small operation make it ten times slower or worse
    torch.set_num_threads(1)
    if args.workers is None:
        return measure_warm(args.reader, cohort, args.folder)
    return measure_cold(args.reader, cohort, args.folder, args.workers)


# --- the comparison ------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    shown = ("atlaslib", "torch", "numpy", "nibabel", "monai", "torchio")
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": (names or [platform.machine()])[0],
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1),  # before the run; other programs if not near 0
        "python": platform.python_version(),
        **{name: packages[name] for name in shown if name in packages},
    }


def in_a_process(name: str, root: Path, scans: int, *more: object) -> object:
    """Run this file in a new process for one reader, or the limits; return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["--reader", name, "--root", root, "--scans", scans, "--folder", folder, *more]
        command = [sys.executable, __file__, *map(str, given)]
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: failed; the error is above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(root: Path, scans: int) -> pd.DataFrame:
    """One row per reader and measure: reader, workers, measure, value, ratio to atlaslib."""
    rows = []
    for key, (_, module, name) in READERS.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            print(f"{name} is left out, as it is not installed: pip install '.[bench]'")
            continue
        print(f"measuring {name}", file=sys.stderr)
        rates = in_a_process(key, root, scans)
        rows.append((name, WORKERS[int(np.argmax(rates))], "warm, slices/s", max(rates)))
        if key in WARM_ONLY:
            continue
        runs = [(w, in_a_process(key, root, scans, "--workers", w)) for w in WORKERS * TRIES]
        workers, values = min(runs, key=lambda run: run[1]["cold, s"])
        rows += [(name, workers, measure, value) for measure, value in values.items()]
    table = pd.DataFrame(rows, columns=["reader", "workers", "measure", "value"])
    ours = table[table.reader == "atlaslib"].set_index("measure").value
    table["ratio"] = table.value / table.measure.map(ours[ours > 0])
    return table


def show(table: pd.DataFrame, limits: dict[str, float], about: dict[str, object]) -> None:
    text = table.assign(value=table.value.map("{:,.5g}".format), ratio=table.ratio.round(3))
    for name in ("measure", "reader"):  # keeps this order when sorted
        text[name] = pd.Categorical(table[name], table[name].unique())
    print(f"\n{about['scans']} scans, {about['slices']} slices; ratio: to atlaslib\n")
    print(text.set_index(["measure", "reader"]).sort_index().to_string())
    rate = table[table.measure == "warm, slices/s"].value.iloc[0]  # atlaslib comes first
    moved = rate * SLICE[0] * SLICE[1] * 8 / 1e9  # image and mask in float32
    print(f"\n{NOTES}\n\ngunzip of the {limits['files']} files alone: {limits['gunzip, s']:.2f} s")
    print(f"the same with isal, which atlaslib uses: {limits['gunzip by isal, s']:.2f} s")
    print(f"one thread copies {limits['copy, GB/s']:.1f} GB/s, atlaslib delivers {moved:.1f} GB/s")
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description="What reading costs, reader by reader.")
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--root", type=Path, help="a folder of scans instead of synthetic ones")
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    for name, kind in (("reader", str), ("folder", Path), ("workers", int)):  # internal
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or make_cohort(Path(folder) / "scans", args.scans).root
        scans = len(load_cohort(root).labelled[: args.scans])
        about = {**machine(), "scans": scans, "slices": scans * DEPTH}
        limits = in_a_process("limits", root, scans)
        table = compare(root, scans)
    show(table, limits, about)
    if args.out:
        rows = json.loads(table.to_json(orient="records"))  # NaN becomes null
        text = json.dumps({"about": about, "limits": limits, "rows": rows}, indent=1) + "\n"
        atomic_write(args.out, lambda name: Path(name).write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
