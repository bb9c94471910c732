"""GPUs of all workers, as NVML measures them."""
from .panels import BYTES, COUNT, RATIO, Query, board, each_interval, lines, number, states, variable

OF_GPU = '{worker=~"$worker", gpu=~"$gpu"}'
NAME = "{{worker}} {{gpu}}"

VARIABLES = [
    variable("worker", "Worker", "label_values(ham_gpu_memory_bytes, worker)", several=True),
    variable("gpu", "GPU", 'label_values(ham_gpu_memory_bytes{worker=~"$worker"}, gpu)', several=True),
]

CONTENTS = [
    number("GPUs", "GPUs of connected workers.", Query(f"count(ham_gpu_memory_bytes{OF_GPU})"), width=6),
    number("GPU slots busy", "Share of the slots with a GPU that belong to an attempt.",
           Query('sum(ham_slots{device="cuda", state="BUSY"}) / sum(ham_slots{device="cuda"})'), unit=RATIO, width=6),
    number("Throttled", "GPUs whose clocks are held down for any reason.",
           Query(f"sum(max by (worker, gpu) (ham_gpu_throttled{OF_GPU}))"), width=6, steps=[(None, "green"), (1, "orange")]),
    number("Memory errors", "Uncorrected memory errors since the drivers were loaded.",
           Query(f"sum(ham_gpu_ecc_errors_total{OF_GPU})"), width=6, steps=[(None, "green"), (1, "red")]),
    lines("Utilisation", "Share of the time in which a kernel ran.", Query(f"ham_gpu_utilization_ratio{OF_GPU}", NAME),
          unit=RATIO, most=1),
    lines("Memory in use", "By whomever, of the memory of the GPU.",
          Query(f"ham_gpu_memory_used_bytes{OF_GPU} / ham_gpu_memory_bytes{OF_GPU}", NAME), unit=RATIO, most=1),
    lines("Memory", "Bytes in use.", Query(f"ham_gpu_memory_used_bytes{OF_GPU}", NAME), unit=BYTES),
    lines("Power", "That a GPU draws.", Query(f"ham_gpu_power_watts{OF_GPU}", NAME), unit="watt"),
    lines("Temperature", "Of a GPU.", Query(f"ham_gpu_temperature_celsius{OF_GPU}", NAME), unit="celsius"),
    lines("New memory errors", "Uncorrected memory errors in each interval.",
          Query(each_interval("worker, gpu", f"ham_gpu_ecc_errors_total{OF_GPU}"), NAME), unit=COUNT, bars=True),
    states("Throttled by reason", "Why the clocks of a GPU are held down.",
           Query(f"ham_gpu_throttled{OF_GPU}", NAME + " {{reason}}"), {0: ("free", "green"), 1: ("held down", "orange")},
           width=24),
]

BOARD = board("ham-gpu", "ham: GPUs", "Health and use of the GPUs.", VARIABLES, CONTENTS)
