"""The tables of ``performance.md`` and its plot: ``python docs/performance.py`` writes them from the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Performance

Every figure is a file in `benchmarks/results`, with date, device and versions; [the commands that write
them](#how-each-file-is-made) are below. This page is written from those files by `python docs/performance.py`.
"""
COMMANDS = {
    "async_2xh200": "async_modes --device cuda --policy 2b --gpus 2",
    "async_cpu": "async_modes",
    "cot_memory": "cot_requests --memory 100000",
    "cot_requests": "cot_requests",
    "demo_overhead": "demo_overhead runs/quickstart/grpo/policy --rounds 6",
    "eval_speed_2b_h200": "eval_speed --device cuda --policy 2b --gpus 1,2",
    "exploring": "exploring --arms supervised published credit_by_part no_auxiliary_loss",
    "exploring_twins": "exploring --world twins",
    "exploring_twins_80_steps": "exploring --world twins --steps 80 --arms wide_drawn_states",
    "grpo_step_2b_24gib_h200": "grpo_step --device cuda --policy 2b --packing group --steps 2 "
    "--set policy.lora.rank=32 --set policy.lora.dropout=0 --set policy.freeze_vision=true "
    "--set policy.row_tokens=8192",
    "grpo_step_2b_2xh200": "grpo_step --device cuda --policy 2b --packing none --steps 2 --set trainer.gpus_per_node=2 "
    "--set trainer.actor_processes=2 --set trainer.prompts_per_step=16",
    "grpo_step_2b_h200": "grpo_step --device cuda --policy 2b --packing none group --steps 3 "
    "--rows-set policy.gradient_checkpointing=false --rows-set policy.compile=true",
    "grpo_step_2b_n8_h200": "grpo_step --device cuda --policy 2b --packing group --steps 3 --set rollout.group_size=8 "
    "--rows-set policy.gradient_checkpointing=false",
    "grpo_step_3b_h200": "grpo_step --device cuda --policy 3b --packing group --steps 1 --clips 12 "
    "--set trainer.prompts_per_step=8 --set trainer.mini_batch_prompts=8 --set rollout.engine.vision_attention=sdpa "
    "--set rollout.engine.enforce_eager=true",
    "grpo_step_released_way_h200": "grpo_step_released_way --device cuda --policy 2b "
    "--ours benchmarks/results/grpo_step_2b_h200.json",
    "grpo_step_tiny_2xh200": "grpo_step --device cuda --packing none --set trainer.gpus_per_node=2 "
    "--set trainer.actor_processes=2 --set trainer.prompts_per_step=16",
    "grpo_step_tiny_cpu": "grpo_step --packing none group --steps 6",
    "grpo_step_tiny_h200": "grpo_step --device cuda --packing none",
    "jf_speed_cpu": "jf_speed",
    "keep_rollouts": "keep_rollouts runs/benchmarks/grpo_step/run_tiny_1",
    "learning": "learning --seeds 0 1 2",
    "long_clip_compiled_h200": "long_clip_memory --device cuda --compile --frames 500",
    "long_clip_h200": "long_clip_memory --device cuda",
    "packing_check_h200": "packing_check",
    "picture_traffic_cpu": "picture_traffic",
    "pool_speed_h200": "pool_speed --device cuda",
    "propagation_rewards_cpu": "propagation_rewards",
    "propagation_rewards_h200": "propagation_rewards --device cuda --preset sam2.1_hiera_l --step-seconds 8.2",
    "rl_gain": "rl_gain --seeds 0 1 2",
    "scaling_1xh200": "scaling --gpus 1",
    "scaling_2xh200": "scaling --gpus 2",
    "scaling_4xh200": "scaling --gpus 4",
    "scaling_8xh200": "scaling --gpus 8",
    "score_speed": "score_speed --clips 30 --repeats 1",
    "segmenters_h200": "segmenters --device cuda",
    "update_profile_2b_h200": "update_profile --device cuda --policy 2b --set policy.gradient_checkpointing=false "
    "--set policy.compile=true",
    "viewer_speed": "viewer_speed",
}
"""What writes each file, without ``--json``; also files that nobody has made yet."""
ENVIRONMENT = (
    "benchmark",
    "date",
    "device",
    "versions",
    "cpu_cores",
    "python",
    "settings",
    "rows",
    "threads",
    "repeats",
)
MOST_FIGURES = 60
PICTURE = ROOT / "docs" / "pictures" / "scaling.svg"
"""With the device's name behind it."""
COLOURS = ("#0b6e99", "#c2571a", "#3a8f3a", "#8a4fbf", "#b01e4c")
SCALING_WORDS = (
    "`benchmarks/scaling.py --gpus N`: work grows with N; in brackets the share of N times the rate of one.\n"
)
COMMAND_WORDS = """Random weights stand in for checkpoints. A file with older versions was made by the command of
its time; one that is not in `benchmarks/results` waits for a machine. `keep_rollouts` and `demo_overhead` read
what an earlier run left.
"""
STEP_FIGURES = {
    "tokens_per_second": "tokens/s",
    "update_mfu": "MFU of the update",
    "peak_gib": "peak of the actor, GiB",
    "device_peak_gib": "peak of a GPU, GiB",
    "idle_share": "share of idle",
}


def page() -> str:
    """The whole page: a section a file, one for all files of ``benchmarks/scaling.py``."""
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    sections = [section(path) for path, content in files.items() if content.get("benchmark") != "scaling"]
    return "\n".join([HEAD, *sections, *scaling_sections(by_device(files)), command_section()])


def command_section() -> str:
    lines = [
        f"python -m benchmarks.{command} --json benchmarks/results/{name}.json" for name, command in COMMANDS.items()
    ]
    return "\n".join(
        ["## how each file is made\n", COMMAND_WORDS, "```bash", *(wrapped(line) for line in lines), "```", ""]
    )


def wrapped(command: str) -> str:
    """A command over lines of at most 120 characters."""
    parts = command.replace(" --", "\n--").split("\n")
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > 120:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)


def by_device(files: Mapping[Path, Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """What ``benchmarks/scaling.py`` found, by the device's name and N."""
    out: dict[str, dict[int, Mapping[str, Any]]] = {}
    for content in files.values():
        if content.get("benchmark") == "scaling":
            out.setdefault(str(content["device"]), {})[content["settings"]["gpus"]] = content
    return {device: dict(sorted(found.items())) for device, found in out.items()}


def scaling_sections(devices: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Iterator[str]:
    for device, found in devices.items():
        versions = next(iter(found.values()))["versions"]
        named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "verl", "vllm", "sam2") if name in versions)
        dates = sorted({content["date"][:10] for content in found.values()})
        shown = f"![speed-up over N]({PICTURE.parent.name}/{picture_file(device).name})\n"
        head = [f"## scaling on {device}\n", f"{', '.join(dates)}; {named}\n", SCALING_WORDS]
        yield "\n".join([*head, *([shown] if has_picture(found) else []), *scaling_table(found), ""])


def rates(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By curve: (what it does a second, the goal as a share of linear)."""
    steps = {m: s["rollouts_per_second"] for m, s in content.get("step", {}).items() if "rollouts_per_second" in s}
    out = {f"step, {mode.replace('_', ' ')}: rollouts/s": (rate, 0.85) for mode, rate in steps.items()}
    for part, rate in (("eval", "expressions_per_second"), ("pool", "rollouts_per_second")):
        if value := content.get(part, {}).get(rate):
            out[f"{part}: {rate.replace('_per_second', '/s')}"] = (value, 0.9)
    return out


def scaling_table(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """A column an N: rates with their share of linear, then the synchronous step's phases and what else it shows."""
    rows: dict[str, dict[int, str]] = {}
    one = rates(found[1]) if 1 in found else {}
    for n, content in found.items():
        for name, (rate, goal) in rates(content).items():
            share = f" ({rate / (n * one[name][0]):.2f})" if n > 1 and name in one else ""
            rows.setdefault(f"{name} (goal {goal} N)", {})[n] = f"{rate:.2f}{share}"
    for n, content in found.items():
        for mode, step in content.get("step", {}).items():
            if "step_seconds" not in step:
                continue
            said = mode.replace("_", " ")
            for phase, seconds in step["step_seconds"].items():
                rows.setdefault(f"{said}: {phase.replace('_', ' ')}, s", {})[n] = f"{seconds:.2f}"
            for key, words in STEP_FIGURES.items():
                if step.get(key) is not None:
                    rows.setdefault(f"{said}: {words}", {})[n] = f"{step[key]:.4g}"
        for mode, sync in content.get("sync", {}).items():
            name = f"{mode.replace('_', ' ')}: weights to vLLM, GiB/s"
            rows.setdefault(name, {})[n] = f"{sync['gib_per_second']:.4g}"
    head = [f"| N | {' | '.join(map(str, found))} |", f"|---|{'---|' * len(found)}"]
    return [*head, *(f"| {name} | {' | '.join(cells.get(n, '') for n in found)} |" for name, cells in rows.items())]


def pictures() -> dict[Path, str]:
    """SVG of each device of which two N or more were measured, one of them alone."""
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("scaling_*.json"))}
    found = by_device(files).items()
    return {picture_file(device): speed_up_picture(of) for device, of in found if has_picture(of)}


def has_picture(found: Mapping[int, Mapping[str, Any]]) -> bool:
    return len(found) > 1 and 1 in found


def picture_file(device: str) -> Path:
    return PICTURE.with_name(f"{PICTURE.stem}_{device.split()[-1].lower()}{PICTURE.suffix}")


def speed_up_picture(found: Mapping[int, Mapping[str, Any]]) -> str:
    """Speed-up over N against one, with the lines of the two goals; 480 x 360."""
    one, most = rates(found[1]), max(found)

    def at(n: float, speed: float) -> str:
        return f"{50 + 400 * n / most:.1f},{310 - 280 * speed / most:.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 360" font-family="sans-serif" font-size="12">',
        '<rect width="480" height="360" fill="white"/>',
        f'<polyline points="{at(0, most)} {at(0, 0)} {at(most, 0)}" fill="none" stroke="#444"/>',
        *(f'<text x="{46 + 400 * n / most:.1f}" y="326">{n}</text>' for n in found),
        *(f'<text x="28" y="{314 - 280 * n / most:.1f}">{n}</text>' for n in found),
        '<text x="230" y="346">GPUs</text>',
    ]
    for goal, dashes in ((1.0, ""), (0.9, "6 3"), (0.85, "2 3")):
        line = f'points="{at(0, 0)} {at(most, goal * most)}" fill="none" stroke="#999" stroke-dasharray="{dashes}"'
        parts.append(f"<polyline {line}><title>{goal} N</title></polyline>")
    parts.append('<text x="60" y="20" fill="#777">grey: N, 0.9 N (dashed), 0.85 N (dotted)</text>')
    for i, (name, (rate, _)) in enumerate(one.items()):
        speeds = {n: of[name][0] / rate for n, content in found.items() if name in (of := rates(content))}
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(at(n, speed) for n, speed in speeds.items())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for n, speed in speeds.items():
            x, y = at(n, speed).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="60" y="{38 + 16 * i}" fill="{colour}">{name.split(":")[0]}</text>')
    return "\n".join([*parts, "</svg>", ""])


def section(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("benchmark") == "grpo_step" and "arms" in content:
        body = step_table(content["arms"])
    elif content.get("benchmark") == "grpo_step_released_way":
        body = step_table({"released way": content, "ours": content["ours"]})
    else:
        body = figure_table(content)
    versions = content.get("versions", {})
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "verl", "vllm", "sam2") if name in versions)
    facts = "; ".join(part for part in (content["date"][:10], str(content["device"]), named) if part)
    return "\n".join([f"## {path.stem.replace('_', ' ')}\n", f"{facts}\n", *body, ""])


def step_table(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Seconds by phase of an RL step, a column an arm; with two arms, how many times faster the second is."""
    names, pair = [*arms], len(arms) == 2
    first, last = arms[names[0]], arms[names[-1]]
    out = [f"| | {' | '.join(names)} |{' ratio |' if pair else ''}", f"|---|{'---|' * (len(arms) + pair)}"]
    for phase in last["step_seconds"]:
        seconds = [arm["step_seconds"].get(phase) for arm in arms.values()]
        cells = ["" if s is None else f"{s:.2f}" for s in seconds]
        ratio = f" {seconds[0] / seconds[1]:.1f} |" if pair and None not in seconds else " |" if pair else ""
        out.append(f"| {phase.replace('_', ' ')}, s | {' | '.join(cells)} |{ratio}")
    facts = {"rollouts per step": "rollouts", "tokens per step": "tokens", "update mfu": "MFU of the update"}
    for key, words in (*facts.items(), ("peak gib", "peak of the actor, GiB")):
        values = [arm.get(key.replace(" ", "_")) for arm in (first, last)[: len(arms)]]
        if any(v is not None for v in values):
            cells = ["" if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in values]
            out.append(f"| {words} | {' | '.join(cells)} |{' |' if pair else ''}")
    return out


def figure_table(content: Mapping[str, Any]) -> list[str]:
    """Every number of a file."""
    figures = [*numbers({k: v for k, v in content.items() if k not in ENVIRONMENT})]
    rows = [f"| {name} | {value} |" for name, value in figures[:MOST_FIGURES]]
    more = [f"\n{len(figures) - MOST_FIGURES} more figures are in the file."] if len(figures) > MOST_FIGURES else []
    return ["| figure | value |", "|---|---|", *rows, *more]


LABELS = ("name", "check", "size")
"""What a thing in a list may be called by."""


def all_have(values: list[Any], key: str) -> bool:
    return bool(values) and all(isinstance(v, Mapping) and isinstance(v.get(key), str) for v in values)


def by_label(values: list[Any], key: str) -> dict[str, Any]:
    """Those of one name are numbered."""
    found: dict[str, Any] = {}
    for value in values:
        again = sum(name.split(" #")[0] == value[key] for name in found)
        found[f"{value[key]} #{again + 1}" if again else value[key]] = value
    return found


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of every number in a nested mapping, names joined by slashes; of lists, those of named things."""
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ').replace('|', '/')}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{name} / ")
        elif isinstance(value, list) and (label := next((k for k in LABELS if all_have(value, k)), None)):
            yield from numbers(by_label(value, label), f"{name} / ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for file, drawn in pictures().items():
        file.write_text(drawn, encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
