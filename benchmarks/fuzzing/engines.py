"""Make inputs for a target: by hypothesis, or guided by coverage by atheris (libFuzzer)."""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.mutation import KINDS, RANGE, Edit, apply_edits, draw_edits
from benchmarks.fuzzing.runner import Find, Runner
from benchmarks.fuzzing.target import Target
from dataops.home import CHECKOUT

INSTRUMENTED = (
    "dataops",
    "tasks",
    "training",
    "flows",
    "tarfile",
    "tomllib",
    "idna",
    "email",
    "zipfile",
    "pickletools",
)
"""Packages whose branches guide atheris, as far as the target imports them first."""
_ROUND = 50
_SHORT_BYTES, _LONG_SHARE = 8_192, 0.05
"""Size of most inputs that atheris makes, and the share of longer ones, which run a hundred times as slowly."""
_EDIT = st.builds(
    Edit,
    kind=st.sampled_from(KINDS),
    at=st.integers(0, RANGE - 1),
    size=st.integers(0, RANGE - 1),
    pick=st.integers(0, (1 << 32) - 1),
)


class _FoundError(Exception):
    """Raised so that hypothesis shrinks a find."""


def fuzz_with_hypothesis(
    runner: Runner, number: int, is_over: Callable[[], bool], *, examples: int | None = None, shrink: bool = True
) -> None:
    """Run mutated inputs until `is_over`, or a number of examples; inputs with a new outcome join the corpus.

    With equal seeds and `examples`, the inputs are equal.

    Args:
        number: seed.
        shrink: whether to make the inputs of finds smaller.
    """
    target, corpus = runner.target, [b"", *runner.warm_up()]
    outcomes = {runner.run(data)[0] for data in corpus}
    started, rounds, left = time.monotonic(), 0, examples
    while not is_over() and (left is None or left > 0):
        found = _run_round(runner, target, corpus, outcomes, f"{number} {rounds}", min(_ROUND, left or _ROUND), shrink)
        for find in found:
            runner.mark_seen(find)
            runner.add_find(find)
        rounds, left = rounds + 1, left and left - _ROUND
        runner.stats.corpus, runner.stats.seconds = len(corpus), time.monotonic() - started


def _run_round(
    runner: Runner, target: Target, corpus: list[bytes], outcomes: set[str], name: str, examples: int, shrink: bool
) -> list[Find]:
    """Run a round of examples, which ends at the first new error; return the smallest input of each find."""
    known, added, found = list(corpus), [], dict[str, Find]()

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @seed(name)
    @given(st.integers(0, len(known) - 1), st.lists(_EDIT, min_size=1, max_size=6))
    def check(index: int, edits: list[Edit]) -> None:
        data = apply_edits(known[index], edits, known, target.tokens, target.max_bytes)
        outcome, find = runner.run(data)
        if outcome not in outcomes:
            outcomes.add(outcome)
            added.append(data)
        if find is not None and len(find.data) <= len(found.setdefault(find.where, find).data):
            found[find.where] = find
            if find.kind != "error":
                runner.mark_seen(find)
            if find.kind == "error" and shrink:  # to repeat slow inputs would take long
                raise _FoundError

    try:
        check()
    except _FoundError:
        pass
    except BaseExceptionGroup as group:
        if group.split(_FoundError)[1] is not None:
            raise
    corpus += added
    return list(found.values())


def list_uninstrumented() -> list[str]:
    """Return our modules that hold functions for numba, which cannot compile instrumented ones."""
    paths = [path for root in ("dataops", "tasks", "training") for path in (CHECKOUT / root).rglob("*.py")]
    names = (
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in paths
        if "numba" in (text := path.read_text("utf-8")) or "kernels.compiled import" in text
    )
    return ["dataops.kernels.compiled", *names]


def fuzz_with_atheris(
    make_runner: Callable[[], Runner], number: int, seconds: float, folder: Path, save: Callable[[Runner], None]
) -> None:
    """Run inputs that libFuzzer and our edits make until the time is over; it ends the process, because libFuzzer does.

    Args:
        make_runner: imports the parser.
        folder: where the corpus grows.
        save: called each second, and at the end.
    """
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), exclude=list_uninstrumented()):
        runner = make_runner()
    seeds, target, corpus = runner.warm_up(), runner.target, folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for i, data in enumerate(seeds):
        (corpus / f"seed-{i:03}").write_bytes(data)
    pool, started = list(seeds), time.monotonic()
    saved = started

    def check(data: bytes) -> None:
        nonlocal saved
        _, find = runner.run(bytes(data))
        if find is not None:
            runner.mark_seen(find)
            runner.add_find(find)
        now = time.monotonic()
        if now - saved > 1 or now - started > seconds:
            saved, runner.stats.seconds = now, now - started
            runner.stats.corpus = sum(1 for _ in corpus.iterdir())
            save(runner)
            if now - started > seconds:
                sys.stderr.flush()
                os._exit(0)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.01:
            pool[rng.randrange(len(pool))] = bytes(data)
        size = max_size if rng.random() < _LONG_SHARE else min(max_size, _SHORT_BYTES)
        if rng.random() < 0.5:
            return atheris.Mutate(data[:size], size)
        return apply_edits(bytes(data), draw_edits(rng), [*seeds, *pool], target.tokens, size)

    options = [
        f"-max_len={target.max_bytes}",
        f"-seed={number % (1 << 31) or 1}",
        "-timeout=1000000",
        "-rss_limit_mb=0",
    ]
    options += ["-handle_alrm=0", "-report_slow_units=1000000", f"-artifact_prefix={folder}/", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check, custom_mutator=mutate)
    atheris.Fuzz()
