"""Tables of what `fewshot.py` has measured so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from benchmarks.fewshot_runs import ABLATION_SETS, NEXT, PAIR, SETS, VARIANTS, Run

__all__ = ["Found", "differences", "markdown", "mean_and_spread", "tables", "values"]

Found = Mapping[Run, dict[str, Any]]

#: Targets: gain over frozen, or Dice that is good enough; most below and least above without
#: semantics.
GAIN, GOOD, BELOW, ABOVE = 0.15, 0.85, 0.02, 0.03
MB = 1e6


def tables(found: Found, budget: str) -> str:
    """All tables there is anything for, of runs with one budget."""
    of_budget = {run: v for run, v in found.items() if run.budget in ("", budget)}
    parts = [
        ("5 planes, variants", ablation_table(of_budget)),
        ("Prompts trained with and used with", prompts_table(of_budget)),
        ("By planes", shots_table(of_budget)),
        ("Targets, over sets and seeds there are", targets_table(of_budget)),
        ("What to label next", next_table(of_budget)),
        ("Cost", cost_table(found)),
    ]
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in parts if text)


# ---------------------------------------------------------------- numbers


def values(
    found: Found, name: str, variant: str, shots: int = 5, measure: str = "dice"
) -> dict[int, float]:
    """What a variant scored on a set, by seed."""
    return {
        run.seed: value[measure]
        for run, value in found.items()
        if run.task in ("train", "next")
        and (run.set, run.variant, run.shots) == (name, variant, shots)
        and value.get(measure) is not None
    }


def frozen(found: Found, name: str, measure: str = "dice") -> float | None:
    """What the starter scored as it comes."""
    value = found.get(Run("frozen", name, "starter"))
    return None if value is None else value.get(measure)


def differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """a - b of seeds that both have."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def mean_and_spread(numbers: Iterable[float], signed: bool = False) -> str:
    """Mean, and standard deviation where there are several; empty where there is nothing."""
    there = list(numbers)
    if not there:
        return ""
    sign = "+" if signed else ""
    mean = f"{fmean(there):{sign}.3f}"
    return mean if len(there) == 1 else f"{mean} ± {stdev(there):.3f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table; empty without any."""
    lines = list(rows)
    if not lines:
        return ""
    every = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def yes(reached: bool) -> str:
    """A target that is reached, or not."""
    return "yes" if reached else "no"


# ---------------------------------------------------------------- tables


def ablation_table(found: Found) -> str:
    """Every variant on the sets of the ablation."""
    rows = [_ablation_row(found, variant) for variant in VARIANTS]
    before = [frozen(found, name) for name in ABLATION_SETS]
    there = [value for value in before if value is not None]
    if there:
        shown = ["" if value is None else f"{value:.3f}" for value in before]
        mean = f"{fmean(there):.3f}" if len(there) == len(before) else ""
        rows.insert(0, ["frozen: the starter as it comes", *shown, mean, *[""] * 4])
    heads = ["trained", *ABLATION_SETS, "mean", "against the base's"]
    heads += ["nothing refused", "steps", "file, MB"]
    return markdown(heads, [row for row in rows if row])


def _ablation_row(found: Found, variant: str) -> list[str]:
    """Means over seeds, and over sets for those seeds that have all of them."""
    by_set = [values(found, name, variant) for name in ABLATION_SETS]
    if not any(by_set):
        return []
    base = [values(found, name, "base") for name in ABLATION_SETS]
    against = [d for a, b in zip(by_set, base, strict=True) for d in differences(a, b)]
    whole = set.intersection(*(set(one) for one in by_set))
    means = [fmean(one[seed] for one in by_set) for seed in sorted(whole)]
    unrefused, steps, sizes = (
        [x for name in ABLATION_SETS for x in values(found, name, variant, 5, key).values()]
        for key in ("dice_any", "steps", "file_bytes")
    )
    return [
        VARIANTS[variant].says,
        *(mean_and_spread(one.values()) for one in by_set),
        mean_and_spread(means),
        "" if variant == "base" else mean_and_spread(against, signed=True),
        f"{fmean(unrefused):.3f}",
        f"{fmean(steps):.0f}",
        f"{fmean(sizes) / MB:.2f}",
    ]


def prompts_table(found: Found) -> str:
    """Trained with text or clicks, used with either."""
    rows = []
    for name in ABLATION_SETS:
        for trained, variant in (("text", "base"), ("clicks", "clicks")):
            text = values(found, name, variant)
            clicks = values(found, name, variant, measure="dice_clicks")
            if text:
                both = [mean_and_spread(one.values()) for one in (text, clicks)]
                rows.append([name, trained, *both])
    return markdown(["set", "trained with", "used with text", "used with 3 clicks"], rows)


def shots_table(found: Found) -> str:
    """What the plugin does, and with and without semantics from the base, by planes."""
    rows = []
    for name in SETS:
        for shots in (1, 3, 5, 10):
            plugin, longer, with_, without = (
                values(found, name, v, shots) for v in ("starter", "longer", *PAIR)
            )
            if not (plugin or longer or with_ or without):
                continue
            before, everything = (frozen(found, name, key) for key in ("dice", "all_dice"))
            reached = ""
            if longer and before is not None:
                mean = fmean(longer.values())
                reached = yes(mean - before >= GAIN or mean >= GOOD)
            apart = differences(with_, without)
            rows.append(
                [
                    name,
                    str(shots),
                    str(len(plugin.keys() | longer.keys() | with_.keys() | without.keys())),
                    "" if everything is None else f"{everything:.3f}",
                    "" if before is None else f"{before:.3f}",
                    _best_word(found, name),
                    *(mean_and_spread(one.values()) for one in (plugin, longer, with_, without)),
                    mean_and_spread(apart, signed=True),
                    reached,
                    yes(fmean(apart) >= -BELOW) if apart else "",
                ]
            )
    heads = ["set", "planes", "seeds", "all marked", "frozen", "... best of its words"]
    heads += [
        "taught",
        "... three times as long",
        "from the base",
        "... without semantics",
        "semantics bring",
    ]
    heads += [f"+{GAIN} or {GOOD}", f"not {BELOW} below"]
    return markdown(heads, rows)


def _best_word(found: Found, name: str) -> str:
    value = found.get(Run("frozen", name, "starter"))
    return "" if value is None else f"{value['best_dice']:.3f} ({value['best_word']})"


def targets_table(found: Found) -> str:
    """What the issue asks of scores, over all sets that were measured."""
    gains, ones, apart = {}, {}, {}
    for name in SETS:
        before = frozen(found, name)
        five, one = values(found, name, "longer"), values(found, name, "starter", 1)
        if before is not None and five:
            gains[name] = fmean(five.values()) - before, fmean(five.values())
        if before is not None and one:
            ones[name] = fmean(one.values()) - before
        for shots in (1, 3, 5, 10):
            if differing := differences(*(values(found, name, v, shots) for v in PAIR)):
                apart[name, shots] = differing
    rows = []
    if gains:
        missed = [n for n, (gain, dice) in gains.items() if gain < GAIN and dice < GOOD]
        rows.append(
            _counted(
                f"5 planes, three times as long: {GAIN} above frozen, or {GOOD}", gains, missed
            )
        )
    if ones:
        missed = [name for name, gain in ones.items() if gain <= 0]
        rows.append(_counted("one plane: above frozen", ones, missed))
    for what, cells in (
        ("5 planes", {key: d for key, d in apart.items() if key[1] == 5}),
        ("1 to 10 planes", apart),
    ):
        if cells:
            below = [f"{n} ({shots})" for (n, shots), d in cells.items() if fmean(d) < -BELOW]
            target = f"{what}: not {BELOW} below without semantics"
            rows.append(_counted(target, cells, below))
            every = [d for one in cells.values() for d in one]
            text = mean_and_spread(every, signed=True)
            target = f"{what}: semantics +{ABOVE} on average"
            rows.append([target, text, yes(fmean(every) >= ABOVE)])
    return markdown(["target", "measured", "reached"], rows)


def _counted(target: str, every: Mapping, missed: Sequence[str]) -> list[str]:
    text = f"{len(every) - len(missed)} of {len(every)}"
    return [target, "; not ".join([text, *missed]), yes(not missed)]


def next_table(found: Found) -> str:
    """What labelling two more planes brings, by how they are chosen."""
    rows = []
    for name in SETS:
        one = values(found, name, "one", 1)
        if not one:
            continue
        by = {variant: values(found, name, variant, 3) for variant in NEXT[1:]}
        rows.append(
            [name, str(len(one)), mean_and_spread(one.values())]
            + [mean_and_spread(by[variant].values()) for variant in NEXT[1:]]
            + [mean_and_spread(differences(by["first"], by["random"]), signed=True)]
            + [mean_and_spread(_agreement(found, name), signed=True)]
        )
    heads = ["set", "seeds", "1 plane", "+ the 2 least sure", "+ 2 unsure and apart"]
    heads += ["+ 2 drawn", "+ the 2 surest", "least sure - drawn", "rank correlation with error"]
    return markdown(heads, rows)


def _agreement(found: Found, name: str) -> list[float]:
    """Spearman's correlation of uncertainty and true error over the planes that are left."""
    correlations = []
    for run, value in found.items():
        if (run.task, run.set, run.variant) == ("next", name, "one"):
            unsure = np.array([u for _, u in value["ranked"]]).argsort().argsort()
            error = (-np.array(value["rest_dice"])).argsort().argsort()
            correlations.append(float(np.corrcoef(unsure, error)[0, 1]))
    return correlations


def cost_table(found: Found) -> str:
    """Times, files and memory against their targets."""
    rows: list[list[str]] = []
    for run, value in found.items():
        if run.task == "epoch":
            for how, key in _EPOCHS.items():
                of = f"epoch with cached trunks / without, {how}"
                rows.append([of, f"{value[key]:.2f}", "0.60", yes(value[key] <= 0.6)])
        elif run.task == "learn":
            rows.append(_learnt(run, value))
        elif run.task == "size":
            rows += _sizes(value)
    return markdown(["what", "measured", "at most", "reached"], rows)


_EPOCHS = {
    "whole planes, CLIP in neither": "ratio",
    "whole planes, CLIP in both": "ratio_with_clip",
    "windows and whole planes as trained, CLIP in neither": "ratio_mixed",
}


def _learnt(run: Run, value: dict[str, Any]) -> list[str]:
    what = f"{run.shots} planes of {run.set}, {value['threads']} threads, seed {run.seed}"
    measured = (
        f"{value['whole_seconds']:.0f} s, tested; Dice {value['dice']:.3f}; "
        f"within 0.01 of its best score after {value['good_seconds'] or 0:.0f} s"
    )
    return [what, measured, "180 s of training", yes(value["seconds"] <= 180)]


def _sizes(value: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, size in value["file_bytes"].items():
        most = 5 if name.startswith("starter") else 80 if "attention" in name else 20
        rows.append([f"file: {name}", f"{size / MB:.2f} MB", f"{most} MB", yes(size <= most * MB)])
    kept, weights, peak = (value[k] / 1e9 for k in ("step_memory", "weights", "process_peak"))
    what = "ViT-B at 1024, a step of one plane in float32: "
    for name, size in (
        ("kept for gradients, and weights", kept + weights),
        ("peak of the process", peak),
    ):
        rows.append([what + name, f"{size:.2f} GB", "8 GB", yes(size <= 8)])
    return rows
