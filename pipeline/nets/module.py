"""Any ``torch.nn.Module`` as a network: its parameters are the leaves, ``torch.func.functional_call`` is the pass.

Batch normalisation layers are replaced by the run's own normalisation mode, because torch's fused ones have silently
wrong second derivatives under ``vmap`` and carry statistics from task to task. Layer and instance normalisation have
the same fault in torch, and are replaced by the same arithmetic in primitive operations. Attention runs on torch's own
primitive operations. Dropout layers take their masks from the task's own random stream, so that the same ticket gives
the same mask. Everything else runs in evaluation mode.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.bounds import Argument
from pipeline.core.failures import ConfigError
from pipeline.core.network import DROPOUT, HEAD
from pipeline.core.plugins import attribute
from pipeline.core.types import Params
from pipeline.nets.net import Net
from pipeline.nets.normalisation import BatchStatistics, Normaliser
from pipeline.nets.pure_layers import BatchNorm, Dropout, OnlyPure, Surroundings, primitive_attention, with_pure_layers


@dataclass(frozen=True)
class ModuleConfig:
    """A module of your own.

    Attributes:
        factory: MODULE:NAME of a class or function that returns the ``torch.nn.Module``. MODULE is one that was
            imported with ``--import`` or ``plugins=[...]``: a recipe imports no code.
        head: The name of the last layer inside the module, such as ``fc``; methods that adapt or replace it need it.
        arguments: Keyword arguments of the factory. It also gets ``outputs`` (the width of the last layer) and
            ``input_shape`` where it has parameters of these names.
    """

    factory: str
    head: str = ""
    arguments: dict[str, Argument] = field(default_factory=dict)


class ModuleNet(Net):
    """A module as a network.

    Args:
        make: returns a fresh module, with parameters drawn from torch's global generator.
        head: the name of the last layer, or "" for none.
        where: the recipe's key that errors name.

    Raises:
        ConfigError: the module cannot be used, with the reason and the fix.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        head: str,
        input_shape: tuple[int, ...],
        outputs: int | None,
        *,
        normalised: bool,
        where: str = "net.factory",
    ) -> None:
        self._make, self._head, self.outputs = make, head, outputs
        self._around = Surroundings()
        module = self._prepared(where)
        self._check_head_name(module)
        self._check_layer_names(module, where)
        self._body = _without(module, head) if head else module
        self._last = module.get_submodule(head) if head else nn.Identity()
        if normalised and not any(isinstance(one, BatchNorm) for one in module.modules()):
            raise ConfigError(
                "normalisation: has no effect, since the module has no batch normalisation layer; use none"
            )
        # Not zeros, which many layers map to zeros; in [0, 1), so that a table of embeddings has such a row.
        x = torch.rand((2, *input_shape), generator=torch.Generator().manual_seed(0))
        self._check_forward(module, x, where)

    def init(self, rng: np.random.Generator) -> Params:
        seed = int(rng.integers(1 << 62))
        module = self._prepared("net.factory", seed)
        return {
            self._leaf(name): leaf.detach().clone()
            for name, leaf in module.named_parameters()
            if self.outputs is not None or not self._leaf(name).startswith(HEAD)
        }

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        if not self._head and self.outputs is not None:
            raise ConfigError("net.head: is empty, and this method needs the features before the last layer; name it")
        return self._call(self._body, params, x, normalise, prefix="").flatten(1)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        if self.outputs is None:
            return features
        return self._call(self._last, params, features, self._around.normalise, prefix=self._head)

    def __call__(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        if self._head or self.outputs is None:
            return super().__call__(params, x, normalise)
        return self._call(self._body, params, x, normalise, prefix="")

    def body(self) -> Net:
        if not self._head and self.outputs is not None:
            raise ConfigError("net.head: is empty, and this method replaces the last layer; name it")
        return super().body()

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        """Keeps a value with probability 1 - share, and divides by it; one mask per example of the task."""
        masks: Params = {}
        for name, layer in self._dropouts():
            drawn = rng.random((rows, *self._around.seen[name])) >= layer.share
            masks[f"{DROPOUT}{name}"] = torch.from_numpy(drawn / (1 - layer.share))
        return masks

    def _dropouts(self) -> Iterator[tuple[str, Dropout]]:
        for layer in self._body.modules():
            if isinstance(layer, Dropout) and layer.name in self._around.seen:
                yield layer.name, layer

    def _leaf(self, name: str) -> str:
        """The leaf of a parameter: ``head/weight`` in the last layer, ``layer1/0/weight`` for ``layer1.0.weight``."""
        if self._head and name.startswith(f"{self._head}."):
            return HEAD + name.removeprefix(f"{self._head}.").replace(".", "/")
        return name.replace(".", "/")

    def _prepared(self, where: str, seed: int = 0) -> nn.Module:
        """A fresh module without what breaks purity; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
            module = self._make()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"{where}: gives {type(module).__name__}, expected a torch.nn.Module")
        return with_pure_layers(module, self._around, where).eval().requires_grad_(False)

    def _call(self, module: nn.Module, params: Params, x: Tensor, normalise: Normaliser, prefix: str) -> Tensor:
        start = f"{prefix}." if prefix else ""
        given = {name: params[self._leaf(start + name)] for name, _ in module.named_parameters()}
        buffers = {name: _like(buffer, x) for name, buffer in module.named_buffers()}
        masks = {name: leaf for name, leaf in params.items() if name.startswith(DROPOUT)}
        with self._surrounded(normalise, masks):
            answer: Tensor = torch.func.functional_call(module, given | buffers, (x,))
            return answer

    @contextmanager
    def _surrounded(self, normalise: Normaliser, masks: Params) -> Iterator[None]:
        around = self._around
        before = around.normalise, around.masks
        around.normalise, around.masks = normalise, masks
        try:
            with primitive_attention():
                yield
        finally:
            around.normalise, around.masks = before

    def _check_head_name(self, module: nn.Module) -> None:
        if not self._head:
            return
        names = [name for name, _ in module.named_children()]
        try:
            module.get_submodule(self._head)
        except AttributeError:
            raise ConfigError(
                f"net.head: {self._head!r} is no layer of the module; its layers are {', '.join(names) or 'none'}"
            ) from None

    def _check_layer_names(self, module: nn.Module, where: str) -> None:
        for name, _ in module.named_parameters():
            layer = name.partition(".")[0]
            if f"{layer}/" in (HEAD, DROPOUT) and not f"{name}.".startswith(f"{self._head}."):
                fix = ", or name it in net.head" if f"{layer}/" == HEAD and not self._head else ""
                raise ConfigError(
                    f"{where}: the layer {layer} has a name that is kept for other leaves of theta; rename it{fix}"
                )

    def _check_forward(self, module: nn.Module, x: Tensor, where: str) -> None:
        """One pass: shapes, the place of the head, and buffers that change."""
        params = {self._leaf(name): leaf.detach() for name, leaf in module.named_parameters()}
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with torch.no_grad():
            try:
                with OnlyPure(where):
                    whole = self._call(module, params, x, BatchStatistics(), prefix="")
            except ConfigError:
                raise
            except Exception as error:
                cause = " ".join(str(error).split())
                raise ConfigError(f"{where}: fails on an input of shape {tuple(x.shape)}: {cause}") from error
            if not isinstance(whole, Tensor) or whole.dim() != 2 or len(whole) != len(x):
                found = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
                raise ConfigError(f"{where}: gives {found} for {len(x)} inputs, expected ({len(x)}, outputs)")
            changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, buffers[name])]
            if changed:
                raise ConfigError(
                    f"{where}: a forward pass changes the buffer {changed[0]}; a network may depend on its weights and "
                    "inputs alone. Make it a constant, or a parameter"
                )
            features = self._features(params, whole, x) if self._head else whole
        self.feature_shape = tuple(features.shape[1:])
        if self.outputs is not None and whole.shape[1] != self.outputs:
            raise ConfigError(
                f"{where}: gives {whole.shape[1]} outputs, the tasks need {self.outputs}; let the factory take "
                "`outputs`, or set its width in net.arguments"
            )

    def _features(self, params: Params, whole: Tensor, x: Tensor) -> Tensor:
        """What the body gives. Raises ``ConfigError`` where the head does not make ``whole`` of it."""
        try:
            features = self._call(self._body, params, x, BatchStatistics(), prefix="")
            again = self._call(self._last, params, features.flatten(1), BatchStatistics(), prefix=self._head)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            again = whole.new_empty(0)
        if again.shape != whole.shape or not torch.allclose(again, whole, atol=1e-5):
            raise ConfigError(f"net.head: {self._head!r} is not the module's last layer; name the one that is")
        return features


class OwnModule(ModuleNet):
    """The module that a plug-in's factory returns."""

    Config: ClassVar[type[ModuleConfig]] = ModuleConfig

    def __init__(
        self, config: ModuleConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        factory = attribute(config.factory, "net.factory")
        if not callable(factory):
            raise ConfigError(
                f"net.factory: {config.factory} is {type(factory).__name__}, expected a class or function"
            )
        # An embedding has no outputs: the last layer is built, and left out.
        offered = {"outputs": 1 if outputs is None else outputs, "input_shape": input_shape}
        given = _accepted(factory, offered) | dict(config.arguments)

        def make() -> nn.Module:
            try:
                module: nn.Module = factory(**given)
            except TypeError as error:
                raise ConfigError(f"net.arguments: {config.factory} does not take {given} ({error})") from error
            except Exception as error:
                cause = " ".join(str(error).split())
                raise ConfigError(f"net.factory: {config.factory} raised {type(error).__name__}: {cause}") from error
            return module

        super().__init__(make, config.head, input_shape, outputs, normalised=normalised)


def _accepted(factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(factory).parameters
    return {name: value for name, value in offered.items() if name in known}


def _without(module: nn.Module, head: str) -> nn.Module:
    """The module with an identity in the place of its last layer; the other layers are shared."""
    body = copy.copy(module)
    parent, _, child = head.rpartition(".")
    if parent:
        first, _, rest = head.partition(".")
        body._modules = dict(module._modules) | {first: _without(module.get_submodule(first), rest)}
    else:
        body._modules = dict(module._modules) | {child: nn.Identity()}
    return body


def _like(buffer: Tensor, x: Tensor) -> Tensor:
    return buffer.to(x.device, x.dtype if buffer.is_floating_point() else None)
