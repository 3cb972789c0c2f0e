"""Plays Hailo's Dataflow Compiler: it refuses what the real one is not known to accept.

Importing it chooses a GPU, looks for graphviz, and leaves log files where the process runs, as the
real one does. How a test steers it is said in `hailo_standin`.
"""

import sys

from hailo_standin import knob, stage
from hailo_standin.said import error, leave_files, version, warning

stage("import")
leave_files()
if knob("SYSTEM") == "127":
    error("The check of the system's requirements failed: first initialization error")
    sys.exit(127)
if knob("GRAPHVIZ") == "missing":
    raise ModuleNotFoundError("No module named 'pygraphviz'", name="pygraphviz")
if knob("GRAPHVIZ") == "warning":
    warning("Cannot use graphviz, so no visualizations will be created")

import hailo_model_optimization as hailo_model_optimization  # noqa: E402 - chooses the GPU

from hailo_sdk_client.exposed_definitions import InferenceContext as InferenceContext  # noqa: E402
from hailo_sdk_client.exposed_definitions import States as States  # noqa: E402
from hailo_sdk_client.runner.client_runner import ClientRunner as ClientRunner  # noqa: E402

__version__ = version()
