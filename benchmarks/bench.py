"""The cost of a training step, an evaluation and a worker's memory, beside sentence-transformers' own.

    make bench                                     # about half an hour; writes benchmarks/results/bench.json
    python benchmarks/bench.py step --steps 60     # one part of it; the others' results stay
    python benchmarks/bench.py data.path=../shared/data/en_pricerunner/judgements.csv

Every side is a process (benchmarks/bench_sides.py). The sides take turns, one step each. A ratio is the
median of the ratios of the same round, so a machine that slows down slows all sides. A round waits until
nobody else computes on this machine. It is left out if somebody did: threads that wait for each other then
take ten times as long. Ratios of steps count only if the validation AUC, mean over the seeds, is equal
within 0.005. Milliseconds of two runs are not comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import table
from bench_sides import busy, config_of, work

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "bench.json"
SET = (
    "study=product_search",
    "model.dropout=null",
    "objective=triplet",
    "train.batch_size=32",
    "evaluate.max_rows=0",
)
ALL = "objective.margin=2"  # no triplet ever leads by it: the backward pass goes through every text
STEP = {
    "theirs, fp32": {"does": "theirs"},
    "theirs, bf16": {"does": "theirs", "bf16": True},
    "theirs, bf16, eager": {"does": "theirs", "bf16": True, "attention": "eager"},
    "ours": {"does": "ours"},
    "theirs, bf16, eager, all active": {"does": "theirs", "bf16": True, "attention": "eager", "set": [ALL]},
    "ours, all active": {"does": "ours", "set": [ALL]},
    "peak": {"does": "products", "tokens": 2048},
}  # fmt: skip
OTHERS = 0.15  # cores
VISITS, VISIT = (
    6,
    3 * 2**13,
)  # of part_sizes to a point; tokens at least that one encodes, in two steps or more
EVALUATE = {
    "theirs, fp32": {"does": "their_vectors"},
    "ours, fp32": {"does": "our_vectors"},
    "theirs, bf16": {"does": "their_vectors", "bf16": True},
    "ours, bf16": {"does": "our_vectors", "bf16": True},
    "tokenising": {"does": "tokenising"},
}


class Side:
    """One process of bench_sides.py."""

    def __init__(self, spec: dict[str, Any], run: Run, **more: Any) -> None:
        words = [*run.overrides, *more.pop("set", []), *spec.get("set", [])]
        said = {"threads": run.threads, **spec, **more, "overrides": words, "cache": str(run.cache)}
        threads = str(said["threads"])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bench_sides.py"), json.dumps(said)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip

    def ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line and self.process.wait() != 0:
            raise SystemExit(
                f"a side of the benchmark ended with exit code {self.process.returncode}; see above"
            )

    def go(self, **said: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(said) + "\n")
        self.process.stdin.flush()

    def took(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"a side of the benchmark ended with exit code {self.process.wait()}; see above"
            )
        self.ready()
        found: dict[str, Any] = json.loads(line)
        return found

    def turn(self, **said: Any) -> dict[str, Any]:
        self.go(**said)
        return self.took()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Run:
    """The prepared data and the settings that all parts share."""

    def __init__(self, args: argparse.Namespace, cache: Path) -> None:
        from embsearch.config.load import compose
        from embsearch.data.load import prepare_dataset

        self.args, self.threads, self.overrides = args, args.threads, [*SET, *args.overrides]
        self.config = compose(self.overrides)
        self.cache = prepare_dataset(self.config.data, cache)

    @contextmanager
    def sides(self, specs: dict[str, Any], **more: Any) -> Iterator[dict[str, Side]]:
        with ExitStack() as stack:
            made = {}
            for name, spec in specs.items():
                made[name] = Side(spec, self, **more)
                stack.callback(made[name].end)
            for side in made.values():
                side.ready()
            yield made


def in_turn(
    sides: dict[str, Side], rounds: int, patience: float
) -> list[dict[str, dict[str, Any]]]:
    """Give every side a turn in each of ``rounds`` rounds; each round starts with the next side."""
    names, log = list(sides), []
    for number in range(rounds):
        patience -= quiet(patience)
        first = number % len(names)
        log.append({name: sides[name].turn() for name in names[first:] + names[:first]})
    return log


def quiet(patience: float) -> float:
    """Wait until nobody computes here, at most ``patience`` seconds. Return the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        before = busy()
        time.sleep(0.2)
        if (busy() - before) / 0.2 < OTHERS:
            break
    return time.monotonic() - began


def undisturbed(log: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
    """Return the rounds in which nobody else took more than OTHERS cores, or all if these are fewer than three."""
    calm = [turns for turns in log if max(turn["others"] for turn in turns.values()) < OTHERS]
    if len(calm) < 3:
        print(
            f"{len(log) - len(calm)} of {len(log)} rounds were disturbed by others: timings are not to be trusted"
        )
    return calm if len(calm) >= 3 else log


def median(log: Sequence[Any], name: str, what: str = "wall") -> float:
    return statistics.median(turns[name][what] for turns in log)


def ratio(log: Sequence[Any], base: str, name: str, what: str = "wall") -> float:
    """Return how many times faster ``name`` is than ``base``: the median over the rounds."""
    return round(statistics.median(turns[base][what] / turns[name][what] for turns in log), 3)


def fastest(log: Sequence[Any], names: Sequence[str]) -> str:
    return min(names, key=lambda name: median(log, name))


def step(
    run: Run, specs: dict[str, Any], seeds: int, steps: int, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Time training steps of all sides, without the first two of each seed, and measure the AUC at their end."""
    timed: list[dict[str, Any]] = []
    aucs: dict[str, list[float]] = {name: [] for name in specs if name != "peak"}
    whole = "ours, all active" if "ours, all active" in specs else "ours"
    for seed in range(seeds):
        words = [f"seed={seed}", f"train.texts={steps * 3 * run.config.train.batch_size}", *more]
        with run.sides(specs, set=words) as sides:
            log = in_turn(sides, steps, run.args.patience)
            for name in aucs:
                aucs[name].append(sides[name].turn()["auc"])
        for turns, (tokens, flops) in zip(
            log, work(config_of([*run.overrides, *words]), run.cache, steps), strict=True
        ):
            wall, peak = turns[whole]["wall"], turns["peak"]["flops"]
            turns[whole] |= {"tokens": tokens, "share": flops / wall / peak}
        timed += log[2:]
    rounds, timed = len(timed), undisturbed(timed)
    memory = {name: max(turns[name]["peak"] for turns in timed) / 2**20 for name in aucs}
    return {
        "rounds": rounds, "undisturbed": len(timed), "seeds": seeds, "steps": steps,
        "wall_ms": {name: round(1000 * median(timed, name), 1) for name in aucs},
        "cpu_ms": {name: round(1000 * median(timed, name, "cpu"), 1) for name in aucs},
        "auc": {name: [round(a, 4) for a in found] for name, found in aucs.items()},
        "memory_mb": {name: round(found) for name, found in memory.items()},
        "tokens": round(median(timed, whole, "tokens")),
        "peak_gflops": round(median(timed, "peak", "flops") / 1e9),
        "gemm_share": round(median(timed, whole, "share"), 3),
        "ratio": compared(timed, aucs),
    }  # fmt: skip


def compared(timed: Sequence[Any], aucs: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Compare ours with theirs: times faster in wall and CPU time, and the distance in AUC.

    The AUC is compared if the loss is the same; their step takes as long with any margin.
    """
    found = {}
    for mine in (name for name in aucs if name.startswith("ours")):
        for base in (name for name in aucs if name.startswith("theirs")):
            pair: dict[str, Any] = {
                "wall": ratio(timed, base, mine),
                "cpu": ratio(timed, base, mine, "cpu"),
            }
            if ("all active" in mine) == ("all active" in base):
                pair["auc"] = round(statistics.mean(aucs[mine]) - statistics.mean(aucs[base]), 4)
            found[f"{mine} / {base}"] = pair
    return found


def part_step(run: Run) -> dict[str, Any]:
    return step(
        run, {name: STEP[name] for name in run.args.sides or STEP}, run.args.seeds, run.args.steps
    )


def part_bert(run: Run) -> dict[str, Any]:
    """Time steps of a BERT of base size with random weights."""
    from transformers import BertConfig, BertModel

    from embsearch.model import pretrained

    with tempfile.TemporaryDirectory() as folder:
        BertModel(BertConfig()).save_pretrained(folder)
        pretrained.build(run.config.model).tokenizer.save_pretrained(folder)
        specs = {name: STEP[name] for name in ("theirs, fp32", "theirs, bf16", "ours", "peak")}
        words = [f"model.path={folder}", "model.pooling=mean", "evaluate.max_rows=200", ALL]
        found = step(run, specs, 1, run.args.rounds + 2, words)
    del found["auc"]  # a few steps from random weights: it says nothing
    for pair in found["ratio"].values():
        pair.pop("auc", None)
    return found


def part_evaluate(run: Run) -> dict[str, Any]:
    with run.sides(EVALUATE) as sides:
        log = in_turn(sides, run.args.rounds, run.args.patience)
    unit = {name: np.load(log[-1][name]["vectors"]) for name in EVALUATE if name != "tokenising"}
    same = {
        name: float((unit[name] * unit["theirs, fp32"]).sum(1).min())
        for name in unit
        if name != "theirs, fp32"
    }
    rest = undisturbed(log[1:] or log)
    return {
        "rounds": len(rest), "texts": log[0]["ours, fp32"]["texts"], "tokens": log[0]["ours, fp32"]["tokens"],
        "wall_ms": {name: round(1000 * median(rest, name), 1) for name in EVALUATE},
        "cpu_ms": {name: round(1000 * median(rest, name, "cpu"), 1) for name in EVALUATE},
        "least_cosine": {name: round(found, 6) for name, found in same.items()},
        "ratio": {
            f"ours, {mine} / theirs, {how}": {
                what: ratio(rest, f"theirs, {how}", f"ours, {mine}", what) for what in ("wall", "cpu")
            }
            for mine, how in (("bf16", "fp32"), ("bf16", "bf16"), ("fp32", "fp32"))
        },
    }  # fmt: skip


def part_sizes(run: Run) -> dict[str, Any]:
    """Measure microseconds a real token from 8 to 256 tokens a text and batches of 16 to 512 triplets.

    Also without the optimizer, whose cost does not depend on the batch. A point is the least of VISITS
    visits, so that a slow minute of the machine falls on no point alone. A visit encodes VISIT tokens,
    which takes as long for short texts.
    """
    points = [(32, 2**n) for n in range(3, 9)] + [(n, 32) for n in (16, 64, 128, 256, 512)]
    laps: dict[tuple[int, int], list[list[float]]] = {point: [] for point in points}
    with run.sides({"sizes": {"does": "sizes", "set": [ALL]}}) as sides:
        for batch, length in points * VISITS:
            quiet(run.args.patience / len(points) / VISITS)
            took = sides["sizes"].turn(
                batch=batch, length=length, repeat=max(2, VISIT // (3 * batch * length))
            )
            laps[batch, length] += [
                [seconds / took["tokens"] for seconds in lap] for lap in took["laps"]
            ]
    found = []
    for (batch, length), each in laps.items():
        whole, without = (round(1e6 * min(parts), 1) for parts in zip(*each, strict=True))
        found.append(
            {"batch": batch, "length": length, "us_a_token": whole, "without_optimizer": without}
        )
    spread = {
        key: round(max(p[key] for p in found) / min(p[key] for p in found), 2)
        for key in ("us_a_token", "without_optimizer")
    }
    return {"points": found, "largest_over_smallest": spread}


def part_workers(run: Run) -> dict[str, Any]:
    """Compare steps an hour: two workers of one thread at once against one worker of two."""
    steps, log = run.args.rounds * 4 + 2, []
    words = [f"train.texts={(2 * steps) * 3 * run.config.train.batch_size}"]
    specs = {
        "a": {"does": "ours", "threads": 1},
        "b": {"does": "ours", "threads": 1},
        "both": {"does": "ours"},
    }
    with run.sides(specs, set=words) as sides:
        for _ in range(steps):
            quiet(run.args.patience / steps)
            start = time.perf_counter()
            sides["a"].go()
            sides["b"].go()
            sides["a"].took(), sides["b"].took()
            two = (time.perf_counter() - start) / 2
            log.append({"two": {"wall": two}, "one": {"wall": sides["both"].turn()["wall"]}})
    return {"rounds": len(log) - 2, "ratio": ratio(log[2:], "one", "two"),
            "ms_a_step": {name: round(1000 * median(log[2:], name), 1) for name in ("one", "two")}}  # fmt: skip


PARTS = {
    name.removeprefix("part_"): made
    for name, made in list(globals().items())
    if name.startswith("part_")
}


def bars(found: dict[str, Any]) -> Iterator[tuple[str, float | str, str]]:
    """Yield what was measured beside what must hold: (what, measured, bar)."""
    if known := found.get("step"):
        ratios = known["ratio"]

        def against(mine: str, bases: Sequence[str]) -> float | str:
            """Return the least ratio over ``bases``, unless the AUC is worse by 0.005 or more somewhere."""
            pairs = [ratios[f"{mine} / {base}"] for base in bases if f"{mine} / {base}" in ratios]
            if not pairs:
                return "not run"
            least = min(pair["wall"] for pair in pairs)
            gaps = [
                pair["auc"]
                for name, pair in ratios.items()
                if name.startswith(f"{mine} /") and "auc" in pair
            ]
            if not gaps:
                return f"{least}, AUC not compared"
            return least if min(gaps) > -0.005 else f"{least}, but AUC {min(gaps):+}"

        best = [name for name in known["wall_ms"] if name.startswith("theirs, bf16")]
        whole = "ours, all active" if "ours, all active" in known["wall_ms"] else "ours"
        yield "step, full backward, against its best bf16", against(whole, best), ">= 2.3"
        yield (
            "step, full backward, against fp32, its default",
            against(whole, ["theirs, fp32"]),
            ">= 3.6",
        )
        yield "step, active triplets, against its best bf16", against("ours", best), ">= 2.7"
        yield "work on real tokens / bf16 peak", known["gemm_share"], ">= 0.50"
        memory = known["memory_mb"]
        least = min(size for name, size in memory.items() if name.startswith("theirs"))
        yield "peak memory, against its smallest", round(memory["ours"] / least, 2), "<= 0.6"
    if known := found.get("evaluate"):
        yield (
            "evaluation against fp32, its default",
            known["ratio"]["ours, bf16 / theirs, fp32"]["wall"],
            ">= 2.5",
        )
        yield (
            "evaluation against bf16",
            known["ratio"]["ours, bf16 / theirs, bf16"]["wall"],
            ">= 1.5",
        )
        yield "evaluation, both in fp32", known["ratio"]["ours, fp32 / theirs, fp32"]["wall"], ""
    if known := found.get("bert"):
        yield (
            "BERT-base shape, against bf16",
            known["ratio"]["ours / theirs, bf16"]["wall"],
            "expected >= 2",
        )
    if known := found.get("workers"):
        yield "two workers of one thread / one of two", known["ratio"], ">= 1.05"
    if known := found.get("sizes"):
        yield (
            "time a token, largest / smallest",
            known["largest_over_smallest"]["us_a_token"],
            "<= 1.2",
        )


def made_with(args: argparse.Namespace, run: Run) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    model = next((line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line),
                 platform.processor()) if cpu.exists() else platform.processor()  # fmt: skip
    import torch

    matrix = [name for name, there in (("avx512_bf16", torch.cpu._is_avx512_bf16_supported()),
                                       ("amx", torch.cpu._is_amx_tile_supported())) if there]  # fmt: skip
    return {
        "date": time.strftime("%Y-%m-%d"), "command": " ".join(["benchmarks/bench.py", *sys.argv[1:]]),
        "cpu": model, "cpus": os.cpu_count(), "bf16": matrix, "threads": args.threads,
        "python": platform.python_version(), "settings": run.overrides,
        **{name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", metavar="part | override", help=f"parts: {', '.join(PARTS)} (all)"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rounds", type=int, default=7, help="of the parts that take no steps to an AUC"
    )
    parser.add_argument(
        "--sides", nargs="+", choices=STEP, help="of part step; ours and peak among them"
    )
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds to wait for a quiet machine, a seed"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    args.overrides = [word for word in args.words if "=" in word]
    parts = [word for word in args.words if "=" not in word] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as cache:
        run = Run(args, Path(cache))
        for part in parts:
            found[part] = {"made_with": made_with(args, run), **PARTS[part](run)}
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            for key, value in found[part].items():
                if isinstance(value, dict) and key != "made_with":
                    print(
                        f"{part}, {key}",
                        *(f"  {name:44} {one}" for name, one in value.items()),
                        sep="\n",
                    )
    print(f"\n{'':44}{'measured':>24}  bar")
    for what, measured, bar in bars(found):
        print(f"{what:44}{measured:>24}  {bar}")
    if args.out == RESULTS:
        table.main()


if __name__ == "__main__":
    main()
