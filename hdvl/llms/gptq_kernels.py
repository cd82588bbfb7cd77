"""Linear layers that compute with quantised weights by the kernels of gptqmodel."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn


@dataclass(frozen=True)
class GPTQKernels:
    """Keeps the linear layers of a language model quantised (gptqmodel, Apache-2.0, on any device).

    Without it quantised checkpoints are dequantised when they are loaded, and need four times the memory.
    The layers are converted for the kernel at the first call, when their weights are on their device.
    After that they can be neither saved nor trained.

    Args:
        bits: number of bits of a weight.
        group_size: number of inputs that share a scale.
        sym: whether the quantisation is symmetric.
        desc_act: whether inputs are grouped by activation size instead of in order.
        device: the device on which the model will run, which decides the kernel.
        backend: name of a kernel of gptqmodel; ``auto`` for the fastest one that fits.

    Raises:
        ValueError: (when attached) gptqmodel is not installed, or the inputs of a layer are not a multiple
            of ``group_size``.
    """

    bits: int = 4
    group_size: int = 128
    sym: bool = True
    desc_act: bool = False
    device: str = "cuda"
    backend: str = "auto"

    def attach(self, model: Any) -> None:
        """Replace the linear layers of the decoder by quantised ones, whose weights are loaded later."""
        kernel = self._kernel()
        decoder = model.base_model
        for layer in decoder.layers:
            linears = [
                (name, child)
                for name, child in layer.named_modules()
                if isinstance(child, nn.Linear)
            ]
            for name, linear in linears:
                layer.set_submodule(name, self._quantised(kernel, linear))
        hooks: list[Any] = []
        hook = partial(self._finish, kernel=kernel, hooks=hooks)
        hooks.append(decoder.register_forward_pre_hook(hook))

    def _kernel(self) -> Any:
        try:
            from gptqmodel.utils.importer import hf_select_quant_linear_v2
        except ImportError as error:
            raise ValueError(
                f"kernels for quantised weights need gptqmodel, which cannot be imported ({error}); "
                "pip install gptqmodel, or leave llm.quantisation out: weights are then unpacked at load"
            ) from error
        return hf_select_quant_linear_v2(
            bits=self.bits,
            group_size=self.group_size,
            desc_act=self.desc_act,
            sym=self.sym,
            format="gptq",
            quant_method="gptq",
            pack=False,
            device_map={"": self.device},
            backend=self.backend,
        )

    def _quantised(self, kernel: Any, linear: nn.Linear) -> nn.Module:
        if linear.in_features % self.group_size:
            raise ValueError(
                f"inputs of a quantised layer must be a multiple of group_size={self.group_size}, got "
                f"{linear.in_features}"
            )
        made: nn.Module = kernel(
            bits=self.bits,
            group_size=self.group_size,
            desc_act=self.desc_act,
            sym=self.sym,
            in_features=linear.in_features,
            out_features=linear.out_features,
            bias=linear.bias is not None,
        )
        return made.train(linear.training)

    def _finish(self, decoder: Any, _: Any, *, kernel: Any, hooks: list[Any]) -> None:
        """Convert the loaded weights for the kernel, once."""
        from gptqmodel.utils.model import hf_convert_gptq_v1_to_v2_format, hf_gptqmodel_post_init

        hooks.pop().remove()
        hf_convert_gptq_v1_to_v2_format(decoder, self.bits, kernel, "gptq", None)
        hf_gptqmodel_post_init(decoder, use_act_order=self.desc_act)
