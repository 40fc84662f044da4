"""How the referring video data sets are broken."""

from __future__ import annotations

from data_construction.layouts import draw_clips
from data_construction.layouts.writing import one_object
from tests.data_construction.faults import (
    Broken,
    Fault,
    cut,
    frame_faults,
    garbage,
    json_fault,
    meta_faults,
    missing,
    png_faults,
    rle_faults,
)


def number(frames: int, step: int = 1) -> list[str]:
    return [f"{step * t:05d}" for t in range(frames)]


def frames_of(dataset: str, split: str, step: int = 1) -> list[str]:
    return number(draw_clips(dataset, split, clips=1)[0].num_frames, step)


def cases(dataset: str, split: str, clip: str, *faults: dict[str, Fault]) -> list[Broken]:
    return [Broken(dataset, split, clip, name, fault) for group in faults for name, fault in group.items()]


def without(faults: dict[str, Fault], *names: str) -> dict[str, Fault]:
    return {k: v for k, v in faults.items() if k not in names}


def first_seen(dataset: str, split: str, k: int = 0) -> int:
    return int(draw_clips(dataset, split, clips=1)[0].masks[k].any((1, 2)).nonzero()[0][0])


def revos() -> list[Broken]:
    meta, clip = "meta_expressions_train_.json", "train_00000"
    first = str(draw_clips("revos", "train", clips=1)[0].expressions[0].targets[0])
    more = {
        "no_target_with_objects": json_fault(
            meta, lambda m: m["videos"][clip]["expressions"]["0"].update(type_id=2), "target_type", meta, clip
        ),
        "masks_missing": missing("mask_dict.json", "", "mask_dict.json", "missing"),
    }
    return cases(
        "revos", "train", clip, frame_faults(f"JPEGImages/{clip}/00003.jpg", clip, "00003"),
        meta_faults(meta, clip, "0", "exp", "anno_id", ("no_masks", "mask_dict.json", clip, "annotation 77")),
        rle_faults("mask_dict.json", first, clip, frames_of("revos", "train")), more,
    )  # fmt: skip


def mevis(name: str = "mevis", file: str = "meta_expressions.json") -> list[Broken]:
    meta, masks, clip = f"valid_u/{file}", "valid_u/mask_dict.json", "valid_u_01000"
    first = str(draw_clips(name, "valid_u", clips=1)[0].expressions[0].targets[0])
    return cases(
        name, "valid_u", clip, frame_faults(f"valid_u/JPEGImages/{clip}/00003.jpg", clip, "00003"),
        meta_faults(meta, clip, "0", "exp", "anno_id", ("no_masks", masks, clip, "annotation 77")),
        rle_faults(masks, first, clip, frames_of(name, "valid_u")),
    )  # fmt: skip


def mevis_v2() -> list[Broken]:
    return mevis("mevis_v2", "meta_expressions_v2.json")


def ref_ytvos() -> list[Broken]:
    meta, clip, png = "meta_expressions/train/meta_expressions.json", "train_00000", "train/Annotations/train_00000"
    return cases(
        "ref_ytvos", "train", clip, frame_faults(f"train/JPEGImages/{clip}/00015.jpg", clip, "00015"),
        meta_faults(meta, clip, "0", "exp", "obj_id", ("never_visible", clip, "annotation 77")),
        png_faults(f"{png}/00015.png", clip, "00015", every_frame=True),
        {
            "no_masks_of_a_clip": missing(png, "no_masks", png, clip),
            "no_object": json_fault(
                meta, lambda m: m["videos"][clip]["expressions"]["0"].pop("obj_id"), "no_annotation", meta, clip
            ),
        },
    )  # fmt: skip


def ref_davis17() -> list[Broken]:
    meta, clip, png = "meta_expressions/valid/meta_expressions.json", "valid_01000", "valid/Annotations/valid_01000"
    return cases(
        "ref_davis17", "valid", clip, frame_faults(f"valid/JPEGImages/{clip}/00003.jpg", clip, "00003"),
        meta_faults(meta, clip, "0", "exp", "obj_id", ("never_visible", clip, "annotation 77")),
        png_faults(f"{png}/00003.png", clip, "00003", every_frame=True),
    )  # fmt: skip


def long_rvos() -> list[Broken]:
    meta, clip = "valid/meta_expressions.json", "valid_01000"
    folder, t = f"valid/Annotations/{clip}/1", first_seen("long_rvos", "valid")
    return cases(
        "long_rvos", "valid", clip, frame_faults(f"valid/JPEGImages/{clip}/00003.jpg", clip, "00003"),
        meta_faults(meta, clip, "0", "exp", "obj_id", ("no_masks", f"Annotations/{clip}/77", clip, "annotation 77")),
        png_faults(f"{folder}/{t:05d}.png", clip, f"{t:05d}", every_frame=False, one_object=True),
        {"no_masks_of_an_object": missing(folder, "no_masks", folder, clip, "annotation 1")},
    )  # fmt: skip


def reasonvos() -> list[Broken]:
    meta, clip = "meta_expressions.json", "test_00000"
    folder, other = f"Annotations/VIPSeg_{clip}_1", f"VIPSeg_{clip}_77"
    return cases(
        "reasonvos", "test", clip, frame_faults(f"JPEGImages/{clip}/00003.jpg", clip, "00003"),
        meta_faults(meta, clip, 0, "exp_text", "obj_id", ("no_masks", other, clip, "annotation 77")),
        png_faults(f"{folder}/00003.png", clip, "00003", every_frame=True, one_object=True),
        {
            "other_source": json_fault(
                meta, lambda m: m["videos"][clip].update(source="UVO"), "no_masks", f"UVO_{clip}_1", clip
            )
        },
    )  # fmt: skip


def ref_sav() -> list[Broken]:
    meta, clip, video = "meta_expressions_valid.json", "sav_001000", "videos/sav_001/sav_001000.mp4"
    names = frames_of("ref_sav", "valid", 4)
    late = ("missing_frame", f"{video}#900", clip, "frame 00900", f"has {4 * len(names)} frames")

    def rename(m: dict[str, dict[str, dict[str, list[str]]]]) -> None:
        m["videos"][clip]["frames"][-1] = "00900"

    return cases(
        "ref_sav", "valid", clip,
        meta_faults(meta, clip, "0", "exp", "anno_id", ("no_masks", "mask_dict.json", clip, "annotation 77")),
        rle_faults("mask_dict.json", "0", clip, names),
        {
            "video_missing": missing(video, "missing_frame", video, clip),
            "video_cut": cut(video, "unreadable_frame", video, clip),
            "no_video": garbage(video, "unreadable_frame", video, clip),
            "frame_beyond_the_video": json_fault(meta, rename, *late),
            "unknown_type": json_fault(
                meta, lambda m: m["videos"][clip]["expressions"]["0"].update(type_id=5), "malformed_expression", "long"
            ),
        },
    )  # fmt: skip


def ref_sav_train() -> list[Broken]:
    meta, clip, folder = "sam_v_final_custom.json", "sav_000000", "sam_v_full/sav_train/sav_000"
    masks = f"{folder}/{clip}_manual.json"
    return cases(
        "ref_sav", "train", clip,
        {
            "train_masks_missing": missing(masks, "malformed_clip", clip, "missing"),
            "train_masks_cut": cut(masks, "malformed_clip", clip, "cut short"),
            "train_video_missing": missing(f"{folder}/{clip}.mp4", "missing_frame", f"{clip}.mp4", clip),
            "train_no_objects": json_fault(meta, lambda m: m[clip].update(objects={}), "no_expressions", meta, clip),
            "train_no_path": json_fault(meta, lambda m: m[clip].pop("anno_path"), "malformed_clip", meta, "anno_path"),
            "train_object_beyond": json_fault(
                meta, lambda m: m[clip]["objects"].update({"40": {"formated": "it"}}), "never_visible", "annotation 40"
            ),
            "train_more_masks": json_fault(
                masks, lambda m: m["masklet"].extend(m["masklet"][-1:] * 5), "missing_frame", clip
            ),
            "train_masklet_gone": json_fault(masks, lambda m: m.pop("masklet"), "no_masks", masks, clip),
        },
    )  # fmt: skip


def groundmore() -> list[Broken]:
    meta, clip = "test_v2.json", "film0_0100_0102"
    k = next(k for _, k in one_object(draw_clips("groundmore", "test", clips=1)[0]))
    drawn = draw_clips("groundmore", "test", clips=1)[0]
    t = next(t for t in range(drawn.num_frames) if drawn.masks[k, t].any())
    png, frame = f"annotations/{clip}/masks/frame_{t:06d}.png", f"frame_{t:06d}.jpg"

    def times(start: str, end: str, *found: str) -> Fault:
        change = {"action_start": start, "action_end": end}
        return json_fault(
            meta,
            lambda m: m["videos"][clip]["questions"]["1"].update(change),
            "malformed_expression",
            meta,
            clip,
            *found,
        )

    return cases(
        "groundmore", "test", clip,
        without(frame_faults(f"annotations/{clip}/images/frame_000003.jpg", clip, "frame_000003"), "missing_frame"),
        meta_faults(meta, clip, "1", "question", "obj_id", ("never_visible", clip, "annotation 77@"), "questions"),
        without(png_faults(png, clip, frame, every_frame=False), "stray_mask"),
        {
            "no_frames_on_disk": missing(f"annotations/{clip}/images", "no_frames", f"{clip}/images", clip),
            "action_ends_before_it_starts": times("1:02", "1:01", "empty or before"),
            "action_before_the_clip": times("0:30", "0:40", "empty or before"),
            "time_is_no_number": times("soon", "1:02", "soon"),
        },
    )  # fmt: skip


def vicas() -> list[Broken]:
    clip = "001000"
    file = f"annotations/v1.0/{clip}.json"
    where = (file, f"clip {clip}")
    inside = ("annotations/v1.0", f"clip {clip}")

    def track(m: dict[str, list[dict[str, list[object]]]]) -> None:
        m["object_referrals"][0]["track_ids"] = [77]

    def rle(m: dict[str, list[dict[str, list[dict[str, object]]]]], **change: object) -> None:
        next(s for s in m["segmentations"] if s["mask_rles"])["mask_rles"][0].update(change)

    return cases(
        "vicas", "val", clip, frame_faults(f"video_frames/{clip}/00003.jpg", clip, "00003"),
        {
            "annotation_missing": missing(file, "malformed_clip", clip, "missing"),
            "annotation_cut": cut(file, "malformed_clip", clip, "cut short"),
            "blank_prompt": json_fault(
                file, lambda m: m["object_referrals"][0].update(prompt=" "), "malformed_expression", *where
            ),
            "no_prompt": json_fault(
                file, lambda m: m["object_referrals"][0].pop("prompt"), "malformed_clip", *where, "prompt"
            ),
            "no_referrals": json_fault(file, lambda m: m.update(object_referrals=[]), "no_expressions", *where),
            "no_segmentations": json_fault(file, lambda m: m.update(segmentations=[]), "no_frames", *where),
            "unknown_track": json_fault(file, track, "no_masks", *inside, "annotation 77"),
            "mask_of_other_size": json_fault(file, lambda m: rle(m, size=[64, 48]), "mask_size", *inside),
            "damaged_runs": json_fault(file, lambda m: rle(m, counts="zz"), "mask_runs", *inside),
            "fewer_masks_than_tracks": json_fault(
                file, lambda m: m["segmentations"][5]["track_ids"].append(1), "malformed_clip", *where
            ),
            "other_image_size": json_fault(file, lambda m: m.update(image_size=[64, 48]), "frame_size", f"clip {clip}"),
            "split_list_damaged": garbage("splits/v1.0/val.json", "", "splits/v1.0/val.json"),
        },
    )  # fmt: skip


VIDEO = [
    case
    for make in (
        revos, mevis, mevis_v2, ref_ytvos, ref_davis17, long_rvos, reasonvos, ref_sav, ref_sav_train, groundmore, vicas,
    )
    for case in make()
]  # fmt: skip
