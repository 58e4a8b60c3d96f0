"""What scripts/benchmark.py times: a network's work on drawn inputs, ours and PyTorch's."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from motfm_jax import build, presets, settings
from motfm_jax.core import Batch, Condition
from motfm_jax.data.facts import Facts
from motfm_jax.interop.torch_weights import to_torch
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state
from motfm_jax.training.step import make_train_step

# The original's, that of size=small and a wider one, beside PyTorch with the same weights; those of
# size=paper, alone.
ORIGINAL = ("unconditional", "mask_class", "unconditional_3d")
SMALL: dict[str, dict[str, Any]] = {  # fields of the config that differ from size=small
    "small_mask_class": {},
    "wider_mask_class": {
        "model.channels": (32, 64, 96),
        "model.res_blocks": 2,
        "model.norm_groups": 32,
        "model.head_dim": 0,
    },
}
PAIRED = (*ORIGINAL, *SMALL)
NETWORKS = (*PAIRED, "paper_mask_class", "paper_3d")
WORK = ("forward", "train", "sample")
CLASSES = 4


class Case(NamedTuple):
    """Work of a network at a side and a batch.

    Attributes:
      network: of NETWORKS.
      work: of WORK.
      side, batch: of the images.
      changes: fields of the config that differ, (("model.remat", "blocks"), ..).
      casts_once: whether sampling casts the weights before the solve, see `core.Network.prepare`.
    """

    network: str
    work: str
    side: int
    batch: int
    changes: tuple[tuple[str, Any], ...] = ()
    casts_once: bool = True

    @property
    def dims(self) -> int:
        return 3 if self.network.endswith("_3d") else 2

    @property
    def conditioned(self) -> bool:
        return self.network.endswith("mask_class")

    @property
    def name(self) -> str:
        return f"{self.network} {self.work} {self.side}^{self.dims} batch {self.batch}"


class Inputs(NamedTuple):
    """Inputs of a case: numpy, channels last; mask and label None for unconditional networks."""

    x0: np.ndarray
    x1: np.ndarray
    t: np.ndarray
    mask: np.ndarray | None = None
    label: np.ndarray | None = None


class Program(NamedTuple):
    """Our side of a case before it is compiled.

    Attributes:
      function: jitted.
      arguments: numpy; a training step's state comes first and is donated.
      params: numpy by name, for PyTorch.
      loops: how often the program runs its network; XLA counts it once.
    """

    function: Any
    arguments: tuple
    params: dict[str, np.ndarray]
    loops: int = 1


def draw(case: Case) -> Inputs:
    """Inputs of a case."""
    random = np.random.default_rng(0)
    space = (case.batch, *(case.side,) * case.dims, 1)
    x0, x1 = (random.standard_normal(space, dtype=np.float32) for _ in range(2))
    t = random.uniform(size=case.batch).astype(np.float32)
    if not case.conditioned:
        return Inputs(x0, x1, t)
    mask = (random.uniform(size=space) > 0.5).astype(np.float32)
    label = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, case.batch)]
    return Inputs(x0, x1, t, mask, label)


def config_of(case: Case) -> ConfigDict:
    """The config of a case's network."""
    config = settings.default()
    config.cond = "mask+class" if case.conditioned else "none"
    if case.network in ORIGINAL:
        presets.apply_original(config, case.dims)
    else:
        presets.apply(config, case.dims, "small" if case.network in SMALL else "paper")
    if case.network in SMALL:
        config.data.mask_encoding, config.model.time = "scalar", "floor"  # as PyTorch has them
        config.update_from_flattened_dict(SMALL[case.network])
    config.update_from_flattened_dict(dict(case.changes))
    config.train.dtype = "bfloat16" if jax.devices()[0].platform == "gpu" else "float32"
    return config


def network(case: Case) -> build.Architecture:
    """Our network of a case."""
    facts = Facts(
        size=(case.side,) * case.dims,
        channels=1,
        classes=tuple("abcd"),
        mask_labels=("background", "inside"),
        intensity=None,
    )
    return build.architecture(config_of(case), facts)


def program(case: Case, inputs: Inputs, calls: int) -> Program:
    """Our side of a case; a sampling makes `calls` network calls."""
    built = network(case)
    net, random = built.network, np.random.default_rng(1)
    if not case.casts_once:
        net = net._replace(prepare=lambda params: params)
    # None is zero, so that no part of the network can be left out.
    params = {
        name: (random.standard_normal(leaf.shape) * 0.02).astype(np.float32)
        for name, leaf in jax.eval_shape(built.init, jax.random.key(0)).items()
    }
    mask = inputs.mask
    if case.network == "paper_mask_class":  # its mask has a channel per label
        mask = np.concatenate([1 - mask, mask], axis=-1)
    condition = Condition(mask, inputs.label)

    def forward(params, x, t, condition):
        return net.apply(params, x, t, net.encode(params, condition), None)

    def sample(params, x0, condition):
        return flow.sample(net, params, x0, condition, Solver("euler", calls)).x

    def loss(params, batch, keys, dropout_key):
        return flow.loss(net, params, batch, condition, keys, dropout_key)

    if case.work == "forward":
        return Program(jax.jit(forward), (params, inputs.x0, inputs.t, condition), params)
    if case.work == "sample":
        return Program(jax.jit(sample), (params, inputs.x0, condition), params, calls)
    optimizer = make_optimizer("adam", make_schedule(1e-6))
    batch = Batch(inputs.x1, None, None, np.ones(case.batch, bool), np.arange(case.batch))
    state = jax.jit(lambda params: init_state(params, optimizer, 0.0))(params)
    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    return Program(step, (state, batch, jax.random.key(0)), params)


def compiled(ours: Program) -> tuple[Any, dict[str, float]]:
    """The compiled program and what it took, without and with a cache on disk."""
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        begin = time.perf_counter()
        lowered = ours.function.lower(*ours.arguments)
        traced = time.perf_counter()
        result = lowered.compile()
        done = time.perf_counter()
        jax.clear_caches()
        again = time.perf_counter()
        ours.function.lower(*ours.arguments).compile()
        warm = time.perf_counter() - again
    cost = result.cost_analysis() or {}
    return result, {
        "trace_s": traced - begin,
        "compile_s": done - traced,
        "warm_s": warm,
        "flop": ours.loops * cost.get("flops", np.nan),
        "bytes": ours.loops * cost.get("bytes accessed", np.nan),
        "temporary_bytes": getattr(result.memory_analysis(), "temp_size_in_bytes", np.nan),
    }


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Keeps compiled programs in a folder."""
    inside = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in inside}

    def configure(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    configure(inside)
    try:
        yield
    finally:
        configure(before)


def call_of(case: Case, function: Any, arguments: tuple) -> Callable[[], Any]:
    """Does the work once and waits for it."""
    on_device = list(jax.device_put(arguments))

    def call():
        result = function(*on_device)
        if case.work == "train":
            on_device[0], result = result
        jax.block_until_ready(result)

    return call


def theirs(
    case: Case, inputs: Inputs, params: Mapping[str, np.ndarray], calls: int
) -> dict[str, Callable[[], Any]]:
    """PyTorch's variants of the same work, by name."""
    import torch
    from live import LIVE
    from torch_original import Original, Structure, euler, flow_loss

    if case.network in LIVE:
        structure = LIVE[case.network].structure
    else:
        model = config_of(case).model
        structure = Structure(
            dims=2,
            channels=model.channels,
            res_blocks=model.res_blocks,
            attention=model.attention,
            norm_groups=model.norm_groups,
            num_classes=CLASSES,
            transformer_layers=model.transformer_layers,
            mask_channels=1,
            mask_width=model.mask_embedding,
            # A level narrower than a head attends with one.
            head_dim=tuple(min(model.head_dim or each, each) for each in model.channels),
        )
    on_gpu = torch.cuda.is_available() and jax.devices()[0].platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    state = {name: torch.from_numpy(value.copy()) for name, value in to_torch(params).items()}
    inner = torch.channels_last if case.dims == 2 else torch.channels_last_3d

    def tensor(array: np.ndarray, last: bool) -> torch.Tensor:
        first = np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim > 2 else array
        result = torch.from_numpy(first).to(device)
        return result.to(memory_format=inner) if last and array.ndim > 2 else result

    def variant(last: bool, compiles: bool) -> Callable[[], Any]:
        network = Original(structure)
        network.load_state_dict(state)
        network = network.to(device)
        network = network.to(memory_format=inner) if last else network
        run = torch.compile(network) if compiles else network
        arrays = inputs._asdict().items()
        tensors = {name: tensor(array, last) for name, array in arrays if array is not None}
        x0, x1, t = (tensors.pop(name) for name in ("x0", "x1", "t"))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)
        context = torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu)

        def call():
            if case.work == "train":
                with context:
                    loss = flow_loss(run, torch.randn_like(x1), x1, torch.rand_like(t), **tensors)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                with torch.inference_mode(), context:
                    if case.work == "forward":
                        run(x0, t, **tensors)
                    else:
                        euler(run, x0, calls, **tensors)
            if on_gpu:
                torch.cuda.synchronize()

        return call

    variants = {"eager": variant(False, False), "channels last": variant(True, False)}
    return variants | ({"compiled": variant(True, True)} if on_gpu else {})
