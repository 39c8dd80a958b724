"""Compare our training step with open_clip's model, optimizer and training step, in turn.

    python -m benchmarks.train [--quick] [--json] [--case ViT-B-32] [--batch 16] [--precision bf16] [--curve 200]
    python -m benchmarks.train --device cuda --precision bf16 --batch 512 --case ViT-B-32 --case ViT-B-16 --case ViT-L-14

Both sides start with the same weights (open_clip's, loaded into ours) and train on the same images (crops of two
photographs) and captions (English words by frequency, log-normal with a median of 8 words as in web captions; CLIP's
tokens), in the same batches. Each side is its own process; they take steps in turn (A B A B, medians) while the other
one waits. The peer gets normalised pixels; ours gets bytes and normalises them in the step. open_clip's step is that
of open_clip_train/train.py 3.3, without logging; both learning rates rise for 50 steps. `--curve N` also prints the
losses of N steps of both to standard error; without it the losses of the measured steps are compared. `--tuned` gives
the peer what it can also do: a context as long as the longest caption, AdamW in one kernel, and images in
channels_last. On a GPU the peer's images are in its memory, ours are copied from the host.
"""

import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from benchmarks.measure import Row, finish, make_parser, peak_bytes, require_peers
from training.model_config import load_model_config

GOALS = {"cpu": {"ViT-B-32": 1.4, "RN50": 1.15}, "cuda": {"ViT-B-32": 1.5}}
WARMUP, CHUNK = 50, 10
TRAIN = {"lr": 1e-4, "weight_decay": 0.2, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6}


def make_pairs(path, config, count):
    """Write `count` pairs as uint8 pixels and CLIP's tokens for a model; return the mean number of tokens."""
    import open_clip
    from sklearn.datasets import load_sample_images

    from benchmarks.inputs.rows import make_texts

    rng = np.random.default_rng(0)
    side = config.vision_cfg.image_size
    pixels = np.empty((count, side, side, 3), np.uint8)
    photos = load_sample_images().images
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(rng.integers(extent - side + 1)) for extent in photo.shape[:2])
        pixels[number] = photo[top : top + side, left : left + side]
    captions = make_texts(np.arange(count, dtype=np.uint64), 30, 8, 0.75, 80, language=0).to_list()
    tokens = open_clip.SimpleTokenizer(context_length=config.text_cfg.context_length)(captions).numpy()
    np.savez(path, pixels=pixels, tokens=tokens)
    return float((tokens.argmax(1) + 1).mean())


# Each side runs in its own process, and takes as many steps as each message requests ----------------------


def ours(spec, folder, pixels, tokens):
    """Return our step, the one that training/train.py takes."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.gpu_gates.sides import make_our_step
    from training.config import TrainConfig
    from training.loop.inputs import StepInputs
    from training.model.packing import pack_texts

    config = TrainConfig(model=spec["model"], precision=spec["precision"], threads=spec["threads"], **TRAIN)
    device = torch.device(spec["device"])
    model, take = make_our_step(config, load_model_config(config.model), device)
    model.load_state_dict(load_file(folder / "weights.safetensors"))

    def step(rows, lr):
        texts = [pack_texts(torch.from_numpy(tokens[rows]))]
        inputs = StepInputs(torch.from_numpy(pixels[rows]), texts, None).map(lambda tensor: tensor.to(device))
        return float(take(inputs, lr)[0])

    return step


def peer(spec, folder, pixels, tokens):
    """Return open_clip's step, with its loss, parameter groups and precision."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.gpu_gates.sides import make_open_clip_model, make_open_clip_step
    from training.config import TrainConfig
    from training.model.preprocess import normalize

    config = TrainConfig(model=spec["model"], precision=spec["precision"], **TRAIN)
    device = torch.device(spec["device"])
    model = make_open_clip_model(load_model_config(spec["model"])).to(device).train()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    images_of_all = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 255).to(device)
    if spec["tuned"]:
        length = int(tokens.argmax(1).max()) + 1
        tokens, model.context_length = tokens[:, :length], length
        model.positional_embedding = torch.nn.Parameter(model.positional_embedding.detach()[:length].clone())
        model.attn_mask = model.attn_mask[:length, :length]
        model = model.to(memory_format=torch.channels_last)
        images_of_all = images_of_all.contiguous(memory_format=torch.channels_last)
    take = make_open_clip_step(model, config, device, fused=spec["tuned"])

    def step(rows, lr):
        return float(take(images_of_all[torch.from_numpy(rows)], torch.from_numpy(tokens[rows]).to(device), lr))

    return step


def serve(name, spec, pipe):
    """Take as many steps as each message requests; send the time of each clock and the losses. 0 ends it."""
    import torch

    torch.set_num_threads(spec["threads"])
    folder = Path(spec["folder"])
    with np.load(folder / "pairs.npz") as pairs:
        step = {"ours": ours, "peer": peer}[name](spec, folder, pairs["pixels"], pairs["tokens"])
        taken, count = 0, len(pairs["tokens"])
    pipe.send("ready")
    while number := pipe.recv():
        losses, wall, cpu = [], perf_counter(), process_time()
        for _ in range(number):
            order = np.random.default_rng(taken * spec["batch"] // count).permutation(count)
            first = taken * spec["batch"] % count
            taken += 1
            losses.append(step(order[first : first + spec["batch"]], TRAIN["lr"] * min(taken / WARMUP, 1)))
        report = {"wall": perf_counter() - wall, "cpu": process_time() - cpu, "losses": losses}
        report["peak"] = torch.cuda.max_memory_allocated() if spec["device"] == "cuda" else peak_bytes()
        pipe.send(report)


# The measuring side -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_sides(spec):
    """Start both sides; yield a function for each that takes a number of steps."""
    os.environ["OMP_NUM_THREADS"] = str(spec["threads"])
    spawn, pipes = multiprocessing.get_context("spawn"), {}

    def take(name, steps):
        pipes[name].send(steps)
        return pipes[name].recv()

    with contextlib.ExitStack() as stack:
        for name in ("ours", "peer"):
            pipes[name], theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(name, spec, theirs))
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(pipes[name].send, 0)
        for pipe in pipes.values():
            pipe.recv()  # it has started
        yield {name: partial(take, name) for name in pipes}


def write_weights(model, path):
    """Write open_clip's initial weights."""
    from safetensors.torch import save_file

    from benchmarks.gpu_gates.sides import make_open_clip_model

    weights = make_open_clip_model(load_model_config(model)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def compare(options, model, folder, tokens):
    """Measure the speed of one model in turn, then the curve."""
    spec = {
        **{"model": model, "precision": options.precision, "batch": options.batch},
        **{"threads": os.cpu_count(), "folder": str(folder), "device": options.device, "tuned": options.tuned},
    }
    write_weights(model, folder / "weights.safetensors")
    seconds = {name: {"wall": [], "cpu": []} for name in ("ours", "peer")}
    losses = {"ours": [], "peer": []}
    peak = {}
    with start_sides(spec) as take:
        for turn in range(-1, options.times):  # the first turn warms up
            for name in seconds:
                report = take[name](1)
                losses[name] += report["losses"]
                peak[name] = report["peak"]
                for clock in ("wall", "cpu") if turn >= 0 else ():
                    seconds[name][clock].append(report[clock])
        while (left := options.curve - len(losses["peer"])) > 0:
            for name in losses:
                losses[name] += take[name](min(left, CHUNK))["losses"]
            step, *both = len(losses["peer"]), losses["ours"][-1], losses["peer"][-1]
            sys.stderr.write(f"{model} step {step}: ours {both[0]:.5f}, open_clip {both[1]:.5f}\n")
    median = {name: {clock: statistics.median(s) for clock, s in clocks.items()} for name, clocks in seconds.items()}
    differences = [abs(a - b) / b for a, b in zip(losses["ours"], losses["peer"], strict=True)]
    details = {
        **{"precision": options.precision, "batch": options.batch, "threads": os.cpu_count()},
        "tokens_per_caption": round(tokens, 1),
        "seconds_per_step": median,
        "peak_bytes": peak,
        "losses": {name: [round(value, 4) for value in values] for name, values in losses.items()},
        "greatest_difference_of_first_10_losses": max(differences[:10]),
        "mean_difference_of_losses": statistics.fmean(differences),
    }
    speeds = [options.batch / median[name]["wall"] for name in ("ours", "peer")]
    name = "open_clip 3.3, tuned" if options.tuned else "open_clip 3.3"
    return Row(model, *speeds, name, "samples/s", GOALS[options.device].get(model)), details


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--case", action="append", help="measure only this model")
    parser.add_argument("--batch", type=int, help="pairs per step, a power of two; 16 by default, 4 with --quick")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--times", type=int, help="number of turns")
    parser.add_argument("--curve", type=int, default=0, help="steps of the loss curve")
    parser.add_argument("--tuned", action="store_true", help="the peer with its better settings, at equal outputs")
    options = parser.parse_args()
    require_peers("open_clip")
    options.batch = options.batch or (4 if options.quick else 16)
    options.times = options.times or (2 if options.quick else 5)
    rows, details = [], {}
    with tempfile.TemporaryDirectory(prefix="pairmill-train-") as name:
        folder = Path(name)
        for model in options.case or list(GOALS[options.device]):
            tokens = make_pairs(folder / "pairs.npz", load_model_config(model), max(64, 4 * options.batch))
            row, details[model] = compare(options, model, folder, tokens)
            rows.append(row)
    equal = all(d["greatest_difference_of_first_10_losses"] < (0.01 if d["precision"] == "fp32" else 0.03)
                and d["mean_difference_of_losses"] < 0.05 for d in details.values())  # fmt: skip
    packages = ("torch", "open_clip_torch", "numpy")
    return finish("train", rows, packages, equal=equal, as_json=options.json, details={"details": details})


if __name__ == "__main__":
    raise SystemExit(main())
