"""What the commands do, one module each. To import it sets the process's environment, before anything heavy is imported."""

import os
import sys

if sys.platform == "win32":  # no SIGUSR1, no processes by fork, no file locks as they are used here
    print("error: the commands run on Linux, on macOS and in WSL (`wsl --install`), and not on Windows itself", file=sys.stderr)
    raise SystemExit(1)

# Threads that spin while they wait make a shared machine crawl: an epoch on digits took 78 s instead of 1 s beside another
# job on two cores. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# cuBLAS reads this at its first product, and deterministic=true needs it; the value is the usual size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors to us instead of printing them
