"""The package ``aiconfigurator-core`` behind the narrow interface; it is imported on first use only."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from cost_models.aiconfigurator.query import AiconfiguratorError, Answer, MissingDataError, Point, Query

PACKAGE = "aiconfigurator-core"
MODULE = "aiconfigurator_core"
INSTALL = "pip install 'newel[aiconfigurator]' (82 MB: aiconfigurator-core 0.12 or later)"
SYSTEMS = {
    "a100": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "b60": "b60",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""AIConfigurator's names of the GPU systems that it has measured rows for (package 0.12.0)."""
ENGINES = ("sglang", "trtllm", "vllm")
VERSION_SLOT = "current"
"""AIConfigurator's word for the engine version whose tables are complete."""
_MEASURED = "silicon"
_PHASES = {
    "context_attention": True,
    "context_mla": True,
    "generation_attention": False,
    "generation_mla": False,
}
_CLASSES = {
    "gemm": "GEMM",
    "context_attention": "ContextAttention",
    "generation_attention": "GenerationAttention",
    "context_mla": "ContextMLA",
    "generation_mla": "GenerationMLA",
    "moe": "MoE",
    "all_reduce": "CustomAllReduce",
    "nccl": "NCCL",
    "p2p": "P2P",
    "memory": "ElementWise",
}


def sdk(name: str) -> Any:
    """Return a module of the package's SDK.

    Raises
    ------
    AiconfiguratorError
        If the package is not installed, or lacks the module.
    """
    try:
        return importlib.import_module(f"{MODULE}.sdk.{name}")
    except ImportError as error:
        if not installed():
            raise AiconfiguratorError(f"{PACKAGE} is not installed", f"Install it: {INSTALL}.") from None
        raise AiconfiguratorError(
            f"{PACKAGE} {version(PACKAGE)} cannot be used here: {error}", f"Install 0.12: {INSTALL}."
        ) from None


def installed() -> bool:
    """Return whether the package is there, without importing it."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


def system_of(device: str) -> str:
    """Return AIConfigurator's name of a device.

    Raises
    ------
    AiconfiguratorError
        If it has no measured rows for it.
    """
    if device not in SYSTEMS:
        raise AiconfiguratorError(
            f"AIConfigurator has no measured tables for {device}",
            f"It knows {', '.join(SYSTEMS)}; plan other devices with Newel's own costs.",
        )
    return SYSTEMS[device]


@contextmanager
def quiet() -> Generator[None]:
    """Silence the package's log: what it borrows or lacks is told by every answer."""
    logger = logging.getLogger(MODULE)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@cache
def database(system: str, engine: str) -> Any:
    """Return the tables of one system and engine, loaded once.

    Raises
    ------
    AiconfiguratorError
        If the package is missing, or has no tables for the pair.
    """
    module = sdk("perf_database")
    if engine not in ENGINES:
        raise AiconfiguratorError(
            f"AIConfigurator does not know the engine {engine}", f"It knows {', '.join(ENGINES)}."
        )
    with quiet():
        try:
            found = module.get_database_view(system, engine, VERSION_SLOT, database_mode="SILICON")
        except ValueError as error:
            raise AiconfiguratorError(f"no tables for {engine} on {system}: {first_line(error)}") from None
    if found is None:
        raise AiconfiguratorError(f"AIConfigurator has no tables for {engine} on {system}")
    return found


def package_label(system: str, engine: str) -> str:
    """Return the package, its version and the tables in words."""
    return f"{PACKAGE} {version(PACKAGE)}, {system}, {engine} {database(system, engine).version}"


@dataclass(slots=True, kw_only=True)
class PackageTimes:
    """Operation times of one system and engine, kept once asked."""

    system: str
    engine: str
    _handle: Any = None
    _known: dict[Query, dict[Point, tuple[float, bool]]] = field(
        default_factory=dict[Query, dict[Point, tuple[float, bool]]]
    )
    _missing: dict[Query, str] = field(default_factory=dict[Query, str])
    _specs: dict[Query, str] = field(default_factory=dict[Query, str])

    def __post_init__(self) -> None:
        """Load the tables, so that a missing package is told at once."""
        self._handle = sdk("engine").EngineHandle.for_database(database(self.system, self.engine))

    @property
    def label(self) -> str:
        """Package, version, system and engine in words."""
        return package_label(self.system, self.engine)

    @property
    def devices_per_node(self) -> int:
        """GPUs that share a node in AIConfigurator's description of the system."""
        return int(database(self.system, self.engine).system_spec["node"]["num_gpus_per_node"])

    def times(self, query: Query, points: Sequence[Point]) -> Answer:
        """Return the seconds of an operation at points (see `OperationTimes`)."""
        if query in self._missing:
            raise MissingDataError(self._missing[query])
        known = self._known.setdefault(query, {})
        wanted = [point for point in dict.fromkeys(points) if point not in known]
        if wanted:
            with quiet():
                self._ask(query, wanted, known)
        found = [known[point] for point in points]
        return Answer(
            time_s=np.array([seconds for seconds, _ in found]), measured=all(known for _, known in found)
        )

    def _ask(self, query: Query, points: list[Point], into: dict[Point, tuple[float, bool]]) -> None:
        try:
            spec = self._spec(query)
            for point in points:
                into[point] = self._one(query, spec, point)
        except (ValueError, LookupError, RuntimeError, TypeError) as error:
            self._missing[query] = first_line(error)
            raise MissingDataError(self._missing[query]) from None

    def _one(self, query: Query, spec: str, point: Point) -> tuple[float, bool]:
        count, length, prefix = point
        if query.family in _PHASES:
            rows = self._handle.evaluate_ops_json(
                spec, is_context=_PHASES[query.family], batch_size=count, s=length, prefix=prefix
            )
        else:
            rows = self._handle.evaluate_ops_json(spec, is_context=True, batch_size=1, s=1, x=count)
        seconds = sum(float(row[1]) for row in rows) * 1e-3
        return seconds, all(row[3] == _MEASURED for row in rows)

    def _spec(self, query: Query) -> str:
        """Return the operation as AIConfigurator's engine reads it."""
        if query not in self._specs:
            operations = sdk("operations")
            operation = getattr(operations, _CLASSES[query.family])("op", 1, *self._arguments(query))
            if query.family in ("context_attention", "generation_attention"):
                attribute = f"_{query.family}_data"
                resolve = importlib.import_module(f"{MODULE}.sdk.operations.attention")
                tables = database(self.system, self.engine)
                operation._lane_order = resolve.resolved_lane_order_for_op(tables, attribute)
            self._specs[query] = sdk("engine").build_ops_json([operation])
        return self._specs[query]

    def _arguments(self, query: Query) -> list[Any]:
        """Return the constructor's arguments, names of formats turned into the package's own values."""
        kinds = sdk("common")
        enums = {
            "gemm": (kinds.GEMMQuantMode,),
            "moe": (kinds.MoEQuantMode,),
            "nccl": (kinds.CommQuantMode,),
        }.get(query.family, (kinds.KVCacheQuantMode, kinds.FMHAQuantMode))
        left = list(enums)
        arguments: list[Any] = []
        for value in query.shape:
            if isinstance(value, str) and left and value in left[0].__members__:
                arguments.append(left.pop(0)[value])
            else:
                arguments.append(value)
        return arguments


def first_line(error: BaseException) -> str:
    """Return the first line of a message, without the place of the package on this machine."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(" at /")[0][:200]
