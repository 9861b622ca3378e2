"""Who is in the synthetic cohort: sites, sessions, lesions, and the table of their metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlaslib.synthetic import infarcts
from atlaslib.synthetic.infarcts import Infarct

# subjects per site in R1.1; sites here have the same shares
SITE_SUBJECTS = (55, 34, 27, 12, 27, 14, 11, 26, 14)
REPEAT_SITE = "Site8"  # in R1.1 all second sessions are from this site
REPEAT_SHARE = 9 / 220  # of the subjects
# Share of heads by what was removed before sharing; our choice. The releases remove faces, the
# newest ones all but the brain; a scan that a reader brings has lost nothing.
REMOVED = {
    "nothing": 0.35,
    "face": 0.35,
    "all but the brain": 0.15,
    "roughly all but the brain": 0.15,
}


@dataclass(frozen=True)
class Person:
    """One synthetic subject: everything that determines the scans, without their voxels."""

    subject: str
    site: int  # 1 to 9
    sessions: tuple[str, ...]
    lesions: tuple[Infarct, ...]
    atrophy: float  # 0..1
    small_vessel: float  # 0..1
    removed: str  # of the head, before it was shared: see face.remove
    seed: np.random.SeedSequence

    def stream(self, key: int) -> np.random.Generator:
        """An independent random stream; the same key always gives the same numbers."""
        return np.random.default_rng(
            np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, key))
        )

    def folder(self, session: str) -> Path:
        """The folder of one session, relative to the cohort's root."""
        return Path(f"Site{self.site}") / self.subject / session


def draw_people(subjects: int, seed: int) -> list[Person]:
    """Draw the cohort's subjects. Their lesion volumes are stratified, so they depend on the count.

    Names start with 9 and hold the seed, so that people of two cohorts never share one. They have
    eight digits (more from a seed of 1000 on), as no name of ATLAS has.
    """
    seeds = np.random.SeedSequence(seed).spawn(subjects + 1)
    rng = np.random.default_rng(seeds[0])
    totals = infarcts.draw_volumes(rng, subjects)
    numbers = infarcts.draw_numbers(rng, totals)
    sides = np.where(np.arange(subjects) + 0.5 < infarcts.LEFT_SHARE * subjects, -1, 1)
    sides = rng.permutation(sides)
    names = rng.choice(10_000, subjects, replace=False)
    sites = _sites(subjects)
    repeated = _repeated(rng, sites)
    people = []
    for i in range(subjects):
        own = np.random.default_rng(seeds[i + 1])
        people.append(
            Person(
                subject=f"9{seed:03d}{names[i]:04d}",
                site=int(sites[i]),
                sessions=("t01", "t02") if i in repeated else ("t01",),
                lesions=infarcts.plan(own, int(totals[i]), int(numbers[i]), int(sides[i])),
                atrophy=float(own.beta(1.6, 2.0)),
                small_vessel=float(own.beta(1.2, 2.0)),
                removed=str(own.choice(list(REMOVED), p=list(REMOVED.values()))),
                seed=seeds[i + 1],
            )
        )
    return people


def _sites(subjects: int) -> NDArray[np.int64]:
    """The site of each subject: R1.1's shares, rounded by largest remainder."""
    exact = np.array(SITE_SUBJECTS) / sum(SITE_SUBJECTS) * subjects
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: subjects - counts.sum()]] += 1
    return np.repeat(np.arange(1, 10), counts)


def _repeated(rng: np.random.Generator, sites: NDArray[np.int64]) -> set[int]:
    """The subjects with a second session: of one site, as in R1.1, while it has enough subjects."""
    wanted = round(REPEAT_SHARE * len(sites)) or int(len(sites) >= 8)
    order = rng.permutation(len(sites))
    first = [i for i in order if f"Site{sites[i]}" == REPEAT_SITE]
    rest = [i for i in order if f"Site{sites[i]}" != REPEAT_SITE]
    return {int(i) for i in (first + rest)[:wanted]}


def metadata(people: Sequence[Person]) -> pd.DataFrame:
    """The cohort's metadata table with the columns of R1.1 and their quirks, one row per scan."""
    rows = []
    for person in people:
        main = person.lesions[0]
        where = _location(main)
        side = "brainstem" if main.kind == "brainstem" else ("Left", "Right")[main.side > 0]
        for session in person.sessions:
            rows.append(
                {
                    "INDI Site ID": f"Site{person.site}",
                    "INDI Subject ID": int(person.subject),  # a number, as in R1.1
                    "Session": f" {session}",  # leading space, as in R1.1
                    **_strokes(person.lesions),
                    "Stroke type": "Embolic" if where == "Cortical" else "Unknown",
                    "Primary Stroke Location": where,
                    "Primary Stroke Location Hemisphere": side,
                    "Vascular territory": _artery(main),
                    "PVH": int(3 * person.small_vessel + 0.5),
                    "DWMH": int(3 * person.small_vessel),
                    "Notes": "synthetic",
                }
            )
    return pd.DataFrame(rows)


def _location(lesion: Infarct) -> str:
    if lesion.kind in ("brainstem", "cerebellum"):
        return lesion.kind.capitalize()
    return "Cortical" if lesion.kind == "cortical" else "Subcortical"


def _strokes(lesions: Sequence[Infarct]) -> dict[str, int]:
    def count(where: str, side: int) -> int:
        return sum(_location(x) == where and x.side == side for x in lesions)

    return {
        "# Strokes LH Cortical": count("Cortical", -1),
        "# Strokes LH subcortical": count("Subcortical", -1),
        "# Strokes RH Cortical": count("Cortical", 1),
        "# Strokes RH subcortical": count("Subcortical", 1),
        "Other Location": sum(x.kind in ("brainstem", "cerebellum") for x in lesions),
    }


def _artery(lesion: Infarct) -> str:
    named = {
        "cortical": "MCA",
        "territory": "MCA",
        "cerebellum": "Cerebellar",
        "brainstem": "Basilar",
    }
    return named.get(lesion.kind, "Lacunar" if lesion.volume < 3_000 else "MCA")
