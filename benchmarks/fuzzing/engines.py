"""Make inputs for a target: at random, or guided by coverage by atheris (libFuzzer)."""

import os
import random
import sys
import time

from benchmarks.fuzzing.mutation import mutate
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
_SHORT_BYTES, _LONG_SHARE = 8_192, 0.05
"""Size of most inputs that atheris makes, and the share of longer ones, which run a hundred times as slowly."""


def fuzz_at_random(runner, seed, is_over, examples=None):
    """Run mutated inputs until `is_over`, or a number of examples; inputs with a new outcome join the corpus.

    With equal seeds and `examples`, the inputs are equal.
    """
    rng, target, corpus = random.Random(seed), runner.target, [b"", *runner.warm_up()]
    outcomes = {runner.run(data) for data in corpus}
    started, left = time.monotonic(), examples
    while left != 0 and not is_over():
        data = mutate(rng.choice(corpus), rng, corpus, target.tokens, target.max_bytes)
        if (outcome := runner.run(data)) not in outcomes:
            outcomes.add(outcome)
            corpus.append(data)
        left = left and left - 1
        runner.stats.corpus, runner.stats.seconds = len(corpus), time.monotonic() - started


def list_uninstrumented():
    """Return our modules that hold functions for numba, which cannot compile instrumented ones."""
    paths = [path for root in ("dataops", "tasks", "training") for path in (CHECKOUT / root).rglob("*.py")]
    names = (
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in paths
        if "numba" in (text := path.read_text("utf-8")) or "kernels.compiled import" in text
    )
    return ["dataops.kernels.compiled", *names]


def fuzz_with_atheris(make_runner, number, seconds, folder, save):
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

    def check(data):
        nonlocal saved
        runner.run(bytes(data))
        now = time.monotonic()
        if now - saved > 1 or now - started > seconds:
            saved, runner.stats.seconds = now, now - started
            runner.stats.corpus = sum(1 for _ in corpus.iterdir())
            save(runner)
            if now - started > seconds:
                sys.stderr.flush()
                os._exit(0)

    def change(data, max_size, number):
        rng = random.Random(number)
        if rng.random() < 0.01:
            pool[rng.randrange(len(pool))] = bytes(data)
        size = max_size if rng.random() < _LONG_SHARE else min(max_size, _SHORT_BYTES)
        if rng.random() < 0.5:
            return atheris.Mutate(data[:size], size)
        return mutate(bytes(data), rng, pool, target.tokens, size)

    options = [
        f"-max_len={target.max_bytes}",
        f"-seed={number % (1 << 31) or 1}",
        "-timeout=1000000",
        "-rss_limit_mb=0",
    ]
    options += ["-handle_alrm=0", "-report_slow_units=1000000", f"-artifact_prefix={folder}/", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check, custom_mutator=change)
    atheris.Fuzz()
