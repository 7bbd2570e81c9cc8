"""Run a network, or a package that `convdsl compile` wrote, on images or arrays.

Without --input it takes the bundled handwritten digits where they fit, else random numbers, and
says which. Images go through the preprocessing that the program's `input` declares; arrays (.npy,
.npz) are taken as they are, with or without a batch in front."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from convdsl import resources
from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.cli.output import report, write_file
from convdsl.diagnostics import problem
from convdsl.network import Network, locate
from convdsl.runtime import inputs, package, parameters
from convdsl.views import results

Array = np.ndarray
LARGEST_BATCH = 40
"""More images than this run one batch after the other, unless --batch says otherwise."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl run`."""
    parser.add_argument(
        "network",
        metavar="NETWORK|DIR",
        help="PATH.cnn, PATH.cnn:NetName, a bundled name, or a folder that `compile -o` wrote",
    )
    networks.add_overrides(parser)
    parser.add_argument(
        "--input", metavar="X", type=Path, help="an image, or an array as .npy or .npz"
    )
    parser.add_argument(
        "--weights",
        metavar="W.safetensors",
        type=Path,
        help="without it, those that are bundled with the network; else they are seeded",
    )
    parser.add_argument(
        "--seed", type=int, help="of random inputs, and of weights, also where some are bundled"
    )
    add_target(parser)
    parser.add_argument("--threads", metavar="N", type=networks.positive)
    parser.add_argument("--batch", metavar="N", type=networks.positive, help="inputs at a time")
    parser.add_argument("--profile", action="store_true", help="the time of every layer")
    parser.add_argument(
        "--top", metavar="K", type=networks.positive, help="show the K likeliest classes"
    )
    parser.add_argument(
        "--activations",
        metavar="FILE.png",
        type=Path,
        help="the feature maps of the first input, layer by layer",
    )
    parser.add_argument(
        "--filters", metavar="FILE.png", type=Path, help="the filters of the first layer with any"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--backward", action="store_true", help="the loss and its gradients, not predictions"
    )
    what.add_argument(
        "--output", metavar="Y", type=Path, help="write the output to .npy, or all to .npz"
    )


def run(args: argparse.Namespace) -> int:
    """Compile, run, and print what came out."""
    if args.output is not None:
        _check_output(args.output)
    for path in (args.activations, args.filters):
        if path is not None:
            _check_sheet(path)
    trained = _trained(args)
    args.seed = args.seed or 0
    args.weights = args.weights or trained
    subject = _package(args) if package.is_package(args.network) else _network(args)
    given = _given(args, subject)
    if subject.network is not None and args.input is None:
        print(subject.network.summary(), end="\n\n")
    batch = subject.batch or args.batch or min(len(given.arrays[0]), LARGEST_BATCH)
    program = subject.compile(args, batch)
    print(_heading(args, subject, given, batch), end="\n\n")
    if args.backward:
        _show_gradients(program, subject, given, batch, args.seed)
    else:
        _show_outputs(program, subject, given, batch, args)
    if subject.network is not None and (args.activations or args.filters):
        _draw_sheets(args, program, subject.network, given)
    if args.profile:
        chunk = next(inputs.chunks(_with_target(args, subject, given), batch))
        print("", results.profile(program.profile(*chunk), batch), sep="\n")
    return 0


@dataclass(frozen=True)
class _Subject:
    """What is run: a network, or a package that is compiled already."""

    name: str
    inputs: tuple[inputs.InputSpec, ...]
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    network: Network | None = None
    program: Any = None

    @property
    def batch(self) -> int | None:
        """The batch of a package, which cannot be changed."""
        return self.program.plan["batch"] if self.program else None

    def compile(self, args: argparse.Namespace, batch: int) -> Any:
        """The program, with its weights loaded."""
        program = self.program
        if self.network is not None:
            program = self.network.compile(
                args.target,
                batch,
                args.backward,
                threads=args.threads,
                precision=args.precision,
                accuracy=args.accuracy,
                seed=args.seed,
            )
        if args.weights is not None:
            _load_weights(program, args.weights)
        return program


def _network(args: argparse.Namespace) -> _Subject:
    network = networks.load(args)
    report(network.warnings)
    graph = network.graph
    specs = tuple(inputs.InputSpec.of(variable) for variable in graph.inputs)
    names = tuple(name for name, _ in graph.outputs)
    return _Subject(graph.name, specs, names, graph.labels, network)


def _trained(args: argparse.Namespace) -> Path | None:
    """The weights that are bundled with a network, where it is run as it is bundled."""
    asked = args.set or args.input_size or args.seed is not None or args.weights
    if asked or package.is_package(args.network):
        return None
    path, name = locate(args.network)
    bundled = path.parent == resources.networks_directory()
    return resources.weights_path(name) if bundled and name else None


def _package(args: argparse.Namespace) -> _Subject:
    program = package.load(args.network, args.threads)
    plan = program.plan
    fixed = {
        "--batch": args.batch is not None and args.batch != plan["batch"],
        "--set": bool(args.set),
        "--input-size": bool(args.input_size),
        "--target": args.target not in ("cpu", plan["target"]),
        "--profile": args.profile,
        "--backward": args.backward,
        "--activations": args.activations is not None,
        "--filters": args.filters is not None,
    }
    for option, wanted in fixed.items():
        if wanted:
            raise problem(
                "E533",
                f"{args.network} is compiled already (batch {plan['batch']}): `{option}` is for "
                "networks",
                f"run the network itself, or compile it again with `{option}`",
            )
    ports = [port for port in plan["inputs"] if port["role"] == "input"]
    if len(ports) < len(plan["inputs"]):
        raise problem("E533", f"{args.network} was compiled for training; it gives no predictions")
    declared: Sequence[Mapping[str, Any]] = plan["preprocessing"]
    specs = tuple(
        inputs.InputSpec(port["name"], tuple(port["shape"][1:]), attributes)
        for port, attributes in zip(ports, declared, strict=True)
    )
    names = tuple(port["name"] for port in plan["outputs"])
    return _Subject(plan["network"], specs, names, tuple(plan["labels"]), program=program)


def _load_weights(program: Any, path: Path) -> None:
    if hasattr(program, "load"):
        program.load(path)
        return
    arrays = parameters.read(path)
    for name, array in arrays.items():
        if program.shapes.get(name) != array.shape:
            raise problem("E505", f"{path}: `{name}` is no parameter of {program.network}")
    program.update(arrays)


# -- inputs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """What the network is run on, one array per input, and the true classes where known."""

    arrays: list[Array]
    description: str
    true: Array | None = None


def _given(args: argparse.Namespace, subject: _Subject) -> _Given:
    specs = subject.inputs
    if args.input is not None:
        arrays = inputs.read(args.input, specs)
        if len({len(array) for array in arrays}) != 1:
            raise problem("E531", f"{args.input}: the arrays have batches of different sizes")
        return _Given(arrays, str(args.input))
    digits = inputs.digits(specs[0]) if len(specs) == 1 else None
    if digits is not None:
        images, labels = digits
        return _Given([images], f"the {len(images)} bundled handwritten digits", labels)
    count = subject.batch or args.batch or 1
    arrays = inputs.random(specs, count, args.seed)
    return _Given(arrays, f"random numbers (normal, seed {args.seed})")


def _heading(args: argparse.Namespace, subject: _Subject, given: _Given, batch: int) -> str:
    bundled = subject.network and resources.weights_path(subject.name)
    if args.weights is not None and args.weights == bundled:
        weights = "trained on 9,000 digits, others than the bundled ones"
    elif args.weights is not None:
        weights = f"from {args.weights}"
    elif subject.network is None:
        weights = "of the package"
    else:
        weights = f"seeded with {args.seed}, untrained"
    target = subject.program.plan["target"] if subject.program else args.target
    return (
        f"{subject.name} on {target}, batch {batch}\n"
        f"input:   {given.description}\n"
        f"weights: {weights}"
    )


# -- results ---------------------------------------------------------------------------------


def _show_outputs(
    program: Any, subject: _Subject, given: _Given, batch: int, args: argparse.Namespace
) -> None:
    outputs = inputs.in_batches(program, given.arrays, batch)
    named = dict(zip(subject.outputs, outputs, strict=True))
    scores = [name for name, array in named.items() if array.ndim == 2 and array.shape[1] > 1]
    for name in scores:
        if len(named) > 1:
            print(f"output {name}:\n")
        # A sample with its true classes is about being right; anything else about what it may be.
        top = args.top or (1 if given.true is not None else 5)
        print(results.predictions(named[name], subject.labels, given.true, top))
    others = {name: array for name, array in named.items() if name not in scores}
    if others:
        print(results.values(others))
    if args.output is not None:
        _write(args.output, named)
        print(f"\noutput written to {args.output}")


def _check_sheet(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise problem("E520", f"{path}: feature maps and filters are drawn as `.png`")


def _draw_sheets(args: argparse.Namespace, program: Any, network: Network, given: _Given) -> None:
    from convdsl import inspection

    graph = network.graph
    if args.filters is not None:
        write_file(args.filters, inspection.filter_sheet(program, graph))
    if args.activations is not None:
        options = {"target": args.target, "threads": args.threads, "precision": args.precision}
        sheet = inspection.activation_sheet(
            program, graph, given.arrays, accuracy=args.accuracy, **options
        )
        write_file(args.activations, sheet)


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise problem("E534", f"{path}: outputs are written as `.npy` or `.npz`")
    if not path.parent.is_dir():
        raise problem("E504", f"{path} cannot be written: there is no folder {path.parent}")


def _write(path: Path, outputs: Mapping[str, Array]) -> None:
    stream = BytesIO()
    if path.suffix.lower() == ".npz":
        np.savez(stream, allow_pickle=False, **outputs)
    elif len(outputs) > 1:
        names = ", ".join(outputs)
        raise problem("E534", f"the network has {len(outputs)} outputs ({names}): give an `.npz`")
    else:
        np.save(stream, next(iter(outputs.values())))
    write_file(path, stream.getvalue())


def _show_gradients(program: Any, subject: _Subject, given: _Given, batch: int, seed: int) -> None:
    chunk = next(inputs.chunks([*given.arrays, _targets(subject, given, seed)], batch))
    loss, by_name = program.value_and_grad(*chunk)
    known = "the true ones" if given.true is not None else f"random (seed {seed})"
    print(f"target classes: {known}\n")
    found = program.input_grad if isinstance(program.input_grad, tuple) else (program.input_grad,)
    by_input = {spec.name: grad for spec, grad in zip(subject.inputs, found, strict=True)}
    print(results.gradients(loss, {**by_name, **by_input}))


def _targets(subject: _Subject, given: _Given, seed: int) -> Array:
    """The true classes, or seeded ones for every position of the output."""
    if given.true is not None:
        return given.true
    assert subject.network is not None
    classes, *positions = subject.network.graph.outputs[0][1].type.shape
    random = np.random.default_rng(seed)
    return random.integers(0, classes, (len(given.arrays[0]), *positions))


def _with_target(args: argparse.Namespace, subject: _Subject, given: _Given) -> list[Array]:
    """What the program takes: the inputs, and the target where it computes a loss."""
    return [*given.arrays, _targets(subject, given, args.seed)] if args.backward else given.arrays
