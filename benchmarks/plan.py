"""What the TPU compiler says of the published settings: memory, traffic, collectives. No TPU is needed, or used.

Command: python benchmarks/plan.py [NAME …]; needs `pip install 'align_jax[tpu]'`, 8 GB of memory and minutes a row.
"""

import json
import subprocess
import sys

COYO = "configs/align_b7_base_coyo.py"
SETTINGS: dict[str, list[str]] = {
    "B7 + BERT-base, v5e:16x16, 16,384": [
        "--config", COYO, "--topology", "v5e:16x16", "--batch-size", "16384", "--task.rematerialize",
    ],
    "B7 + BERT-base, v3:16x16, 65,536 (COYO)": ["--config", COYO, "--topology", "v3:16x16"],
    "B7 + BERT-large, v3:16x32, 16,384 (paper)": [
        "--config", "configs/align_l2_large.py:image_tower=b7", "--topology", "v3:16x32",
    ],
    "L2 + BERT-large, v3:16x32, 16,384 (paper)": ["--config", "configs/align_l2_large.py", "--topology", "v3:16x32"],
}  # fmt: skip
GIB = 2**30


def main() -> None:
    chosen = sys.argv[1:] or list(SETTINGS)
    print("| setting | memory a device, GiB | arguments | temporaries | traffic, GiB | collectives | compiled in, s |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen:
        command = [sys.executable, "-m", "align_jax", "plan", "--json", *SETTINGS[name]]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not finished.stdout:
            print(f"| {name} | status {finished.returncode} |")
            continue
        print(row(name, json.loads(finished.stdout)["step"]), flush=True)


def row(name: str, plan: dict) -> str:
    needed = f"{plan['needed_bytes'] / GIB:.2f} of {plan['available_bytes'] / GIB:.2f}"
    if not plan["memory"]:
        return f"| {name} | does not fit: {needed} | | | | | {plan['compile_seconds']:.0f} |"
    collectives = ", ".join(
        f"{traffic['count']} {kind} of {traffic['bytes'] / 2**20:.0f} MiB"
        for kind, traffic in plan["collectives"].items()
    )
    memory = plan["memory"]
    verdict = needed if plan["fits"] else f"does not fit: {needed}"
    return (
        f"| {name} | {verdict} | {memory['arguments'] / GIB:.2f} | {memory['temporaries'] / GIB:.2f} | "
        f"{plan['memory_traffic_bytes'] / GIB:.0f} | {collectives} | {plan['compile_seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
