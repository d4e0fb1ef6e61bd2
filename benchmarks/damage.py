"""What every command says of a home in which one file is damaged: the same numbers, or why not.

    python benchmarks/damage.py [--part 1/8] [--files GLOB] [--verbs WORD...] [--model DIR] [--data CSV]

A home is made with a finished and a running study, a promoted champion, an index and an export. Then,
one at a time, each of its files has a byte flipped, is cut in half, is emptied, is deleted, and every
command is run on it, each on a fresh copy of the home. Each outcome is one of

    same            the numbers of the undamaged home
    made again      the same numbers, and the command said what it made again
    refused         exit code 2 or 3, and the message names the file, its folder or what it is of

Everything else is a fault: a traceback, other numbers, another refusal, no end within --patience.
Commands run in forks of this process, which has imported what they need. Faults are printed as they
come; all outcomes are counted in benchmarks/results/damage.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "damage.json"
STUDY = [
    "study.task=task", "train.precision=fp32", "train.texts=2000", "space=small", "launcher=inline",
    "evaluate.at=[0.5,1.0]", "evaluate.draws=50", "confirm.top_k=1", "confirm.seeds=1", "device=cpu",
    "objective=triplet", "train.warmup_steps=2", "sampler=qmc", "train.lr=1e-3",
    "space.train.lr={low: 1e-4, high: 1e-2}",
]  # fmt: skip
PROMOTE = [
    "promote.min_auc=0.1", "promote.min_gain=-1", "promote.licence=mit", "promote.max_slowdown=100",
    "promote.draws=100",
]  # fmt: skip
VERBS = {
    "status": "status study.name=s",
    "status of all": "status",
    "why": "status study.name=s trial=1 --why",
    "running": "status study.name=r",
    "data check": "data check study.name=s",
    "report": "report study.name=s output={out}/page.html --no-open",
    "compare": "compare study.name=s study.name=r",
    "evaluate": "evaluate study.name=s trial=1",
    "encode trial": "encode study.name=s trial=1 input={out}/texts.txt",
    "encode champion": "encode study.name=s checkpoint=champion input={out}/texts.txt",
    "query": "query index={home}/index study.name=s red shoe",
    "card": "card study.name=s",
    "history": "history study.name=s",
    "verify": "registry verify",
    "promote": "promote study.name=s --dry-run",
    "reproduce": "reproduce study.name=s trial=1",
    "sync": "sync study.name=s",
    "search": "search study.name=s stop.trials=3",
    "extend": "search study.name=s stop.trials=4",
    "go on": "search study.name=r stop.trials=3",
}
NUMBER = re.compile(r"-?\d+\.\d{4,}")
AGAIN = ("made again", "restored", "without scores of single rows")
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "deleted": lambda data: None,
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def numbers(self) -> list[str]:
        return NUMBER.findall(self.out)


@dataclass
class Bench:
    """A home, its undamaged copy and the words of every command."""

    home: Path
    whole: Path
    out: Path
    words: list[str]
    patience: float

    def run(self, verb: str, *more: str, kill_when: Callable[[], bool] | None = None) -> Said:
        """Run one command in a fork; kill it once ``kill_when`` says so, or after the patience."""
        said = [self.out / name for name in ("stdout", "stderr")]
        child = os.fork()
        if not child:
            self._command([*verb.format(home=self.home, out=self.out).split(), *more], said)
        until = time.monotonic() + self.patience
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > until or (kill_when and kill_when()):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                code = -9
                break
            time.sleep(0.005)
        return Said(code, *(path.read_text(errors="replace") for path in said))

    def _command(self, words: list[str], said: list[Path]) -> None:
        code = 99
        try:
            for number, path in enumerate(said, 1):
                os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            verb = words[: 2 if words[0] in ("data", "registry") else 1]
            rest = words[len(verb) :]
            from embsearch.cli.main import main

            code = main([*verb, *self.words, *rest])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def restore(self) -> None:
        """Put the undamaged home back."""
        shutil.rmtree(self.home)
        shutil.copytree(self.whole, self.home, symlinks=True)

    def make(self) -> None:
        """Make the home: a finished, a running study, a champion, an index and an export."""

        def must(verb: str, *more: str) -> None:
            said = self.run(verb, *more)
            assert said.code == 0, (verb, said)

        must("search study.name=s stop.trials=3", "track=mlflow")
        must("promote study.name=s")
        (self.out / "texts.txt").write_text("red shoe\nblue shoe\n")
        must(f"index study.name=s output={self.home}/index input={self.out}/texts.txt")
        must(f"export study.name=s output={self.home}/export")
        logs = self.home / "studies" / "r" / "trials"
        self.run(
            "search study.name=r stop.trials=3", "track=mlflow",
            kill_when=lambda: b'"measured"' in _read(logs / "t0001" / "events.jsonl"),
        )  # fmt: skip
        for lock in self.home.rglob("*.lock"):
            lock.unlink()
        shutil.copytree(self.home, self.whole, symlinks=True)

    def damaged(self, file: str, how: str, verb: str) -> Said:
        """Run a command on the home with one file damaged."""
        self.restore()
        path = self.home / file
        data = DAMAGES[how](path.read_bytes())
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        return self.run(VERBS[verb])


def outcome(said: Said, usual: Said, file: str) -> str:
    """Return the name of an outcome; of a fault it begins with FAULT."""
    told = said.out + said.err
    if said.code == -9:
        return "FAULT: no end"
    if "Traceback" in told or said.code not in (0, 2, 3):
        return "FAULT: traceback"
    if said.code == usual.code:
        if said.numbers == usual.numbers:
            return "made again" if any(word in told for word in AGAIN) else "same"
        return "FAULT: other numbers"
    names = {*Path(file).parts[-2:], *Path(file).parts[-3:-2]} - {"studies", "trials", "cache"}
    return "refused" if any(name in told for name in names) else "FAULT: refused, not by name"


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def chosen(bench: Bench, pattern: str, part: str) -> list[str]:
    """Return the files that are damaged, by their path in the home."""
    files = [path for path in sorted(bench.whole.rglob("*")) if path.is_file()]
    names = [str(path.relative_to(bench.whole)) for path in files]
    names = [name for name in names if fnmatch.fnmatch(name, pattern) and not name.endswith("lock")]
    at, parts = map(int, part.split("/"))
    return names[at - 1 :: parts]


def played(bench: Bench, files: list[str], verbs: list[str], damages: list[str]) -> Counter[str]:
    """Return how often each outcome came; print the faults."""
    usual = {}
    for verb in verbs:
        bench.restore()
        usual[verb] = bench.run(VERBS[verb])
        if usual[verb].code:
            raise SystemExit(f"{verb} fails on the undamaged home: {usual[verb].err}")
    found: Counter[str] = Counter()
    for file in files:
        for how in damages:
            for verb in verbs:
                said = bench.damaged(file, how, verb)
                what = outcome(said, usual[verb], file)
                found[what] += 1
                if what.startswith("FAULT"):
                    last = (said.err.strip() or said.out.strip()).splitlines()[-1:]
                    print(f"{file} {how}, {verb}: {what}: {last}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--data", required=True)
    parser.add_argument("--files", default="*", help="of the home: a pattern of their names")
    parser.add_argument("--part", default="1/1", help="of the files")
    parser.add_argument("--verbs", nargs="*", default=list(VERBS))
    parser.add_argument("--damages", nargs="*", default=list(DAMAGES))
    parser.add_argument("--patience", type=float, default=120)
    parser.add_argument(
        "--home", type=Path, help="keep the home here, and use the one that is there"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    _import_all()
    folder = (args.home or Path(tempfile.mkdtemp(prefix="damage."))).resolve()
    (folder / "out").mkdir(parents=True, exist_ok=True)
    words = [*STUDY, *PROMOTE, f"home={folder / 'home'}", f"data.path={Path(args.data).resolve()}"]
    words.append("model=minilm" if args.model == "minilm" else f"model.path={args.model}")
    bench = Bench(folder / "home", folder / "whole", folder / "out", words, args.patience)
    began = time.monotonic()
    if not bench.whole.exists():
        bench.make()
    files = chosen(bench, args.files, args.part)
    found = played(bench, files, args.verbs, args.damages)
    results = {
        "files": len(files), "damages": args.damages, "commands": args.verbs,
        "outcomes": dict(sorted(found.items())), "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    print(json.dumps(results, indent=1))
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    if not args.home:
        shutil.rmtree(folder)


def _import_all() -> None:
    """Import what commands need, before they are forked."""
    import torch

    import embsearch.cli.main
    import embsearch.worker  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
