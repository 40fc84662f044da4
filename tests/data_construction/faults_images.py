"""How the image data sets are broken."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data_construction.faults import (
    Broken,
    Fault,
    Found,
    cut,
    frame_faults,
    garbage,
    json_fault,
    missing,
)
from tests.data_construction.faults_video import cases


class Evil:
    """Unpickled plainly, it would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch /tmp/pickle_was_run",)


def pickle_fault(file: str, how: Callable[[Any], object], *found: str) -> Fault:
    def fault(root: Path) -> Found:
        value = pickle.loads((root / file).read_bytes())
        how(value)
        (root / file).write_bytes(pickle.dumps(value, protocol=2))
        return found

    return fault


def written(file: str, data: bytes, *found: str) -> Fault:
    """Replace a file."""

    def fault(root: Path) -> Found:
        (root / file).write_bytes(data)
        return found

    return fault


def unnamed(fault: Fault, clip: str) -> Fault:
    """A fault that only the clip is named for, not the file."""
    return lambda root: (fault(root)[0], clip)


def refer(dataset: str, owner: str) -> list[Broken]:
    refs, clip, masks = f"refs({owner}).p", "COCO_train2014_000000000001", "instances.json"
    image, where = f"coco2014/train2014/{clip}.jpg", (refs, clip, "item 0")
    inside = (masks, clip, "annotation 1")

    def annotation(how: Callable[[Any], object], *found: str) -> Fault:
        return json_fault(masks, lambda m: how(m["annotations"][0]), *found)

    return cases(
        dataset, "train", clip, without_size(frame_faults(image, clip, clip)),
        {
            "attack": pickle_fault(refs, lambda r: r.append(Evil()), "", refs, "refused", "system"),
            "pickle_cut": cut(refs, "", refs),
            "no_pickle": garbage(refs, "", refs),
            "no_list": written(refs, pickle.dumps({"refs": []}), "", refs, "list"),
            "blank_sentence": pickle_fault(
                refs, lambda r: r[0]["sentences"][0].update(sent=""), "malformed_expression", *where, "is empty"
            ),
            "no_sentences": pickle_fault(refs, lambda r: r[0].update(sentences=[]), "malformed_expression", *where),
            "sentence_id_twice": pickle_fault(
                refs, lambda r: r[0]["sentences"][1].update(sent_id=r[0]["sentences"][0]["sent_id"]),
                "malformed_expression", *where, "twice",
            ),
            "no_split": pickle_fault(refs, lambda r: r[0].pop("split"), "malformed_record", refs, "item 0", "split"),
            "unknown_annotation": pickle_fault(
                refs, lambda r: r[0].update(ann_id=777), "no_masks", masks, clip, "annotation 777"
            ),
            "annotation_of_another_image": annotation(lambda a: a.update(image_id=3), "wrong_image", *inside),
            "polygon_of_two_points": annotation(
                lambda a: a.update(segmentation=[[1, 1, 5, 5]]), "mask_runs", *inside, "three points"
            ),
            "polygon_outside": annotation(
                lambda a: a.update(segmentation=[[1, 1, 500, 5, 9, 9]]), "mask_runs", *inside, "outside"
            ),
            "runs_of_other_size": annotation(
                lambda a: a.update(segmentation={"size": [48, 64], "counts": [5, 7]}), "mask_runs", *inside, "12 of"
            ),
            "mask_of_other_size": annotation(
                lambda a: a.update(segmentation={"size": [64, 48], "counts": [5, 3067]}), "mask_size", *inside
            ),
            "instances_missing": missing(masks, "", masks, "missing"),
            "instances_of_something_else": json_fault(masks, lambda m: m.pop("annotations"), "unusable_masks", masks),
        },
    )  # fmt: skip


def without_size(faults: dict[str, Fault]) -> dict[str, Fault]:
    """An image whose size no file states can only disagree with its masks."""
    return {k: v for k, v in faults.items() if k != "small_frame"}


def reasonseg() -> list[Broken]:
    clip = "val_01000"
    image, text = f"val/{clip}.jpg", f"val/{clip}.json"

    def change(how: Callable[[Any], object], *found: str) -> Fault:
        def fault(root: Path) -> Found:
            value = json.loads((root / text).read_bytes().decode("cp1252"))
            how(value)
            (root / text).write_text(json.dumps(value))
            return (found[0], text, clip, *found[1:])

        return fault

    def shape(**values: Any) -> Callable[[Any], object]:
        return lambda m: m["shapes"][0].update(values)

    return cases(
        "reasonseg", "val", clip, without_size(frame_faults(image, clip, clip)),
        {
            "annotation_missing": missing(text, "no_annotation", text, clip),
            "annotation_cut": cut(text, "malformed_clip", text, clip),
            "no_shapes": change(lambda m: m.pop("shapes"), "malformed_clip", "shapes"),
            "no_text": change(lambda m: m.pop("text"), "no_expressions"),
            "blank_text": change(lambda m: m.update(text=[" "]), "malformed_expression"),
            "no_points": change(shape(points=[]), "mask_runs", "shape 0"),
            "words_for_points": change(shape(points=["here"]), "mask_runs", "shape 0"),
            "polygon_outside": change(shape(points=[[0, 0], [640, 0], [640, 480]]), "mask_size", "480 x 640"),
            "all_ignored": unnamed(
                change(lambda m: [s.update(label="ignore") for s in m["shapes"]], "never_visible"), clip
            ),
            "no_label": change(lambda m: m["shapes"][0].pop("label"), "mask_runs", "label"),
            "folder_missing": missing("val", "", "val", "missing"),
        },
    )  # fmt: skip


def gcg() -> list[Broken]:
    file, clip = "annotations/GranDf_HA_GCG_train.json", "grandf_00000.jpg"
    where = (file, clip)

    def item(how: Callable[[Any], object], *found: str) -> Fault:
        return json_fault(file, lambda m: how(m[0]), *found)

    def phrase(**values: Any) -> Callable[[Any], object]:
        return lambda m: next(iter(m["groundings"].values())).update(values)

    return cases(
        "gcg", "grandf", clip, without_size(frame_faults(f"images/grandf/train/{clip}", clip, clip)),
        {
            "annotations_cut": cut(file, "", file, "cut short"),
            "annotations_missing": missing(file, "", file),
            "no_list": written(file, b"{}", "", file, "list"),
            "no_caption": item(lambda m: m.pop("caption"), "malformed_record", *where, "caption"),
            "no_groundings": item(lambda m: m.update(groundings={}), "no_expressions", *where),
            "phrase_beyond_the_caption": item(phrase(token_positives=[3, 999]), "malformed_expression", *where, "999"),
            "no_place_in_the_caption": item(phrase(token_positives=[]), "malformed_record", *where),
            "no_masks": item(phrase(rle_masks=[]), "never_visible", *where),
            "mask_of_other_size": item(
                phrase(rle_masks=[{"size": [9, 9], "counts": "Q2"}]), "mask_size", *where, "annotation 0"
            ),
            "mask_is_a_word": item(phrase(rle_masks="mask"), "mask_runs", *where),
        },
    )  # fmt: skip


IMAGES = [
    *refer("refcoco", "unc"),
    *refer("refcoco_plus", "unc"),
    *refer("refcocog", "umd"),
    *reasonseg(),
    *gcg(),
]
