"""The doctor: logs of every tool explained, and machines of every kind looked at."""

import json
import os
import re
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from onchip.artifact import Artifact, load, save
from onchip.cli.app import run
from onchip.device import Check, Place, doctor
from onchip.device import hailo as probe
from onchip.errors import DeviceError, InputError
from onchip.targets import target as targets
from onchip.toolchains import known, machine

import hefs

# --- logs: what is wrong in them

# table, code, what the message says, the line
BAD = [
    # the compiler, its installation, and the zoo around it
    ("hailo", "graphviz", "headers of Graphviz",
     "pygraphviz/graphviz_wrap.c:3023:10: fatal error: graphviz/cgraph.h: 没有那个文件或目录"),
    ("hailo", "graphviz", "headers of Graphviz",
     "fatal error: graphviz/cgraph.h: No such file or directory\n  ERROR: Failed building wheel for pygraphviz\nFailed to build pygraphviz"),
    ("hailo", "pygraphviz", "could not be built",
     "ERROR: ERROR: Failed to build installable wheels for some pyproject.toml based projects (pygraphviz)\nFailed to build pygraphviz"),
    ("hailo", "zoo_driver", "HailoRT's Python package", "ModuleNotFoundError: No module named 'hailo_platform'"),
    ("hailo", "no_compiler", "not installed", "ModuleNotFoundError: No module named 'hailo_sdk_common'"),
    ("hailo", "zoo_choice", "knows no yolov8s",
     "hailomz compile: error: argument model_name: invalid choice: 'yolov8s' (choose from )"),
    ("hailo", "no_alls", "model scripts", "FileNotFoundError: no alls found for requested hw_arch"),
    ("hailo", "calibration_path", "the date 2021-06-18",
     "FileNotFoundError: Couldn't find dataset in /home/ubuntu/.hailomz/data/models_files/coco/2021-06-18/coco_calib2017.tfrecord. Please refer to docs/DATA.rst."),
    ("hailo", "calibration_path", "(/data/calib.tfrecord)", "FileNotFoundError: Couldn't find dataset in /data/calib.tfrecord"),
    ("hailo", "no_calibration", "no photos", "ValueError: Cannot run optimization without dataset. use --calib-path to provide external dataset."),
    ("hailo", "system_check", "Ubuntu only", "first initialization error 127"),
    ("hailo", "undefined_symbol", "takes the place",
     "hailo_tools/build/compiler: symbol lookup error: site-packages/hailo_tools/build/compiler: undefined symbol: _ZN6gflags14FlagRegistererC1INSt7\nBackendAllocatorException"),
    ("hailo", "libc", "GLIBC_2.34 is missing", "compiler: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by compiler)"),
    ("hailo", "no_avx", "AVX", "This CPU does not support `avx` instructions, and they are needed to run Tensorflow."),
    ("hailo", "missing_nodes", "/model.22/cv2.9/Conv",
     "hailo_sdk_client.model_translator.exceptions.MisspellNodeError: Unable to find end node names: ['/model.22/cv2.9/Conv']"),
    ("hailo", "end_nodes", "/model.22/Concat_3",
     "hailo_sdk_client.model_translator.exceptions.ParsingWithRecommendationException: Parsing failed. The errors found in the graph are:\n"
     " UnsupportedShuffleLayerError in op /model.22/dfl/Reshape: Failed to determine type of layer to create in node /model.22/dfl/Reshape\n"
     "Please try to parse the model again, using these end node names: /model.22/Concat_3"),
    ("hailo", "end_nodes", "proposes another cut", "Parsing failed with recommendations for end node names: ['/model.22/Concat_3'].\nWould you like to parse again with the recommendation? (y/n)"),
    ("hailo", "unsupported_layer", "(UnsupportedShuffleLayerError) /model.22/dfl/Reshape",
     "UnsupportedShuffleLayerError in op /model.22/dfl/Reshape: Failed to determine type of layer to create in node /model.22/dfl/Reshape"),
    ("hailo", "unsupported_layer", "UnsupportedReduceMaxLayerError", "exceptions.UnsupportedReduceMaxLayerError: axes"),
    ("hailo", "unsupported_layer", "UnsupportedModelError", "hailo_sdk_common.hailo_nn.exceptions.UnsupportedModelError: cycles"),
    ("hailo", "unsupported_layer", "UnsupportedOperationError", "UnsupportedOperationError in op /m/Gather: GatherElements"),
    ("hailo", "not_onnx", "onnx::Sub_640", "ValueError: 'onnx::Sub_640' is not in list"),
    ("hailo", "nms_meta_arch", "NMS of yolov8", "ValueError: 'yolov8' is not a valid NMSMetaArchitectures"),
    ("hailo", "nms_config", "conv41", "NMSConfigPostprocessException: The layer yolov8s/conv41 doesn't have one output"),
    ("hailo", "script", "optimization_level", "hailo_sdk_client.runner.client_runner.InvalidArgumentsException: unexpected optimization_level"),
    ("hailo", "har_version", "another version", "The HAR file was created with a different version of the compiler"),
    ("hailo", "har_state", "yolov8n.har is not quantized", "ValueError: HAR file yolov8n.har does not seem to be quantized"),
    ("hailo", "nan", "NaN", "BackendValueError: Unsupported NaN values were found in params ['yolov8m/conv1/kernel:0']"),
    ("hailo", "noise_analysis", "Layer Noise Analysis", "[info] Starting Layer Noise Analysis\nValueError: Dimensions must be equal, but are 80 and 40"),
    ("hailo", "out_of_memory", "46.0 GiB", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 46.0 GiB for an array with shape (5000, 640, 640, 3) and data type float64"),
    ("hailo", "out_of_memory", "ran out of memory", "Calibration:  12%|#2        | 8/64 [00:03<00:24,  2.30entries/s]\nKilled\n"),
    ("hailo", "out_of_memory", "ran out of memory", "[ 812.2] Out of memory: Killed process 4242 (python) total-vm:41231231kB"),
    ("hailo", "gpu_memory", "GPU ran out", "ResourceExhaustedError: OOM when allocating tensor with shape[8,80,80,64]"),
    ("hailo", "single_context", "in one piece",
     "[error] Mapping Failed (allocation time: 2s)\n"
     "Context switch is disabled, but model could not fit in single context. consider changing it and try again.\n"
     "Detailed error is: Failed to save enough resources to fit in the required parameters (in a recoverable manner): SCs: 326/384, 16bit SCs: 0/384, APUs: 149/120, LCUs: 149/96"),
    ("hailo", "resources", "SCs: 326/384, APUs: 149/120",
     "Failed to save enough resources to fit in the required parameters (in a recoverable manner): SCs: 326/384, APUs: 149/120\n[error] Mapping Failed"),
    ("hailo", "agent_infeasible", "the layer concat21",
     "[error] Mapping Failed\n[error] No successful assignments: concat21 errors:\n\tAgent infeasible\nBackendAllocatorException"),
    ("hailo", "agent_infeasible", "concat24", "BackendAllocatorException: Compilation failed: No successful assignments: concat24"),
    ("hailo", "agent_infeasible", "cannot be placed", "Agent infeasible"),
    ("hailo", "partition", "no way to cut",
     "[error] BackendAllocatorException: Compilation failed: Compiler could not find a valid partition to contexts."),
    ("hailo", "allocation", "could not place", "[error] Mapping Failed (allocation time: 1m 44s)\n[error] Failed to produce compiled graph"),
    # HailoRT, the driver, the kernel
    ("hailort", "driver_version", "the kernel's driver is 4.18.0 and the library 4.19.0",
     "[HailoRT] [error] CHECK failed - Driver version (4.18.0) is different from library version (4.19.0)\n"
     "[HailoRT] [error] Driver version mismatch, status HAILO_INVALID_DRIVER_VERSION(76)\n"
     "[HailoRT CLI] [error] CHECK_SUCCESS failed with status=HAILO_INVALID_DRIVER_VERSION(76)"),
    ("hailort", "driver_version", "different versions", "HailoRTException during initialization: libhailort failed with error: 76 (HAILO_INVALID_DRIVER_VERSION)"),
    ("hailort", "driver_version", "different versions", "Failed running 'hailortcli fw-control identify': returncode=76"),
    ("hailort", "ioctl", "ioctl 0x400c6705", "[  188.404620] hailo 0000:04:00.0: Invalid general ioctl code 0x400c6705 (nr: 5)"),
    ("hailort", "ioctl", "do not understand each other", "[HailoRT] [error] Ioctl HAILO_QUERY_DRIVER_INFO failed due to inappropriate ioctl for device (can happen due to version mismatch or unsupported feature)"),
    ("hailort", "driver_failed", "refused a call",
     "frigate.detectors.plugins.hailo8l ERROR   : HailoRTException during initialization: PCIe driver failure. run 'dmesg | grep hailo' for more information\n"
     "hailo_platform.pyhailort._pyhailort.HailoRTStatusException: 36"),
    ("hailort", "driver_failed", "refused a call", "HailoRTDriverOperationFailedException: Failure in hailort driver ioctl. run 'dmesg | grep hailo' for more information"),
    ("hailort", "cli_version", "hailortcli 4.20.0", "libhailort version (4.19.0) does not match HailoRT-CLI version (4.20.0)"),
    ("hailort", "wheel_version", "(4.21.0 and 4.20.0)", "ImportError: _pyhailort version (4.21.0) does not match pyhailort version (4.20.0)"),
    ("hailort", "wheel_version", "libhailort 4.19.0", "ImportError: libhailort.so.4.19.0: cannot open shared object file: No such file or directory"),
    ("hailort", "wheel_python", "another Python", "ModuleNotFoundError: No module named 'hailo_platform.pyhailort._pyhailort'"),
    ("hailort", "wrong_driver", "hailo1x_pci", "[  172.770575] hailo1x 0000:02:00.0: Probing: Failed init pcie resources"),
    ("hailort", "desc_page_size", "(16384) than the chip takes (4096)",
     "[HailoRT] [error] CHECK failed - max_desc_page_size given 16384 is bigger than hw max desc page size 4096\n[HailoRT] [error] CHECK_SUCCESS failed with status=HAILO_INTERNAL_FAILURE(8)"),
    ("hailort", "no_firmware", "/lib/firmware/hailo/hailo8_fw.bin", "hailo 0000:01:00.0: Firmware file not found (/lib/firmware/hailo/hailo8_fw.bin), please upload the firmware manually"),
    ("hailort", "firmware_load", "could not start", "hailo 0000:01:00.0: Firmware load failed"),
    ("hailort", "module", "not built for the kernel", "modprobe: FATAL: Module hailo_pci not found in directory /lib/modules/6.12.25+rpt-rpi-2712"),
    ("hailort", "pcie", "over PCIe", "hailo 0000:01:00.0: Probing: Failed reading device BARs, device may be disconnected"),
    ("hailort", "firmware_version", "firmware 4.20.0, and the chip runs 4.19.0", "[HailoRT] [warning] Unsupported firmware operation. Host: 4.20.0, Device: 4.19.0"),
    ("hailort", "firmware_version", "another version", "CHECK_SUCCESS failed with status=HAILO_UNSUPPORTED_FW_VERSION(16)"),
    ("hailort", "permission", "/dev/hailo0", "[HailoRT] [error] CHECK failed - Failed to open device file /dev/hailo0 with error 13\nHAILO_DRIVER_OPERATION_FAILED(36)"),
    ("hailort", "hef_arch", "built for HAILO8, and the chip is a HAILO8L",
     "[HailoRT] [error] HEF format is not compatible with device. Device arch: HAILO8L, HEF arch: HAILO8\n"
     "[HailoRT] [error] CHECK_SUCCESS failed with status=HAILO_INVALID_HEF(26)\nError: Invalid HEF. See hailort.log for more information"),
    ("hailort", "hef_arch", "another chip", "HailoRTHEFNotCompatibleWithDevice: HEF file is not compatible with device. See hailort.log for more information"),
    ("hailort", "hef_newer", "KO Run ASAP",
     "[HailoRT] [error] CHECK failed - Failed opening non-compatible HEF with the following unsupported extensions: KO Run ASAP (KO_RUN_ASAP)\n[HailoRT] [error] CHECK_SUCCESS failed with status=26"),
    ("hailort", "hef_older", "too old", "Hef has periph_calculation_in_hailort feature disabled - this HEF is outdated and no longer supported. Please update HEF"),
    ("hailort", "hef_older", "version 3", "[HailoRT] [error] Unsupported hef version 3"),
    ("hailort", "hef_damaged", "cut off", "[HailoRT] [error] CHECK failed - HEF file length does not match\nHAILO_HEF_FILE_CORRUPTED(91)"),
    ("hailort", "hef_magic", "is no .hef", "CHECK failed - HEF magic does not match. Should be 1484546 but detected magic - 4b50"),
    ("hailort", "hef_unsupported", "too old", "libhailort failed with error: 92 (HAILO_HEF_NOT_SUPPORTED)"),
    ("hailort", "hef_invalid", "refuses the .hef", "hailo_platform.pyhailort._pyhailort.HailoRTStatusException: 26"),
    ("hailort", "hef_path", "did not find", "Failed to initialize Hailo device: HEF can only be created from a file path (str) or a buffer (bytes)"),
    ("hailort", "multi_process", "service", "HailoRT Runtime Agent: Failed to create VDevice: HAILO_INVALID_SERVICE_VERSION"),
    ("hailort", "in_use", "no chip is free",
     "[HailoRT] [error] CHECK failed - Failed to create vdevice. there are not enough free devices. requested: 1, found: 0\n[HailoRT] [error] CHECK_SUCCESS failed with status=HAILO_OUT_OF_PHYSICAL_DEVICES(74)"),
    ("hailort", "in_use", "no chip is free", "HailoRTStatusException: 73"),
    ("hailort", "no_driver", "not loaded", "[HailoRT] [error] Can't find hailo pcie class, this may happen if the driver is not installed\nHAILO_PCIE_DRIVER_NOT_INSTALLED(64)"),
    ("hailort", "driver_timeout", "did not answer its driver", "status=HAILO_DRIVER_TIMEOUT(87)"),
    ("hailort", "cma", "CMA", "HailoRTStatusException: 81"),
    ("hailort", "host_memory", "the board ran out", "HAILO_OUT_OF_HOST_MEMORY(3)"),
    ("hailort", "fw_memory", "the chip's own memory", "CHECK_SUCCESS failed with status=HAILO_OUT_OF_FW_MEMORY(71)"),
    ("hailort", "not_implemented", "InferVStreams", "libhailort failed with error: 7 (HAILO_NOT_IMPLEMENTED)"),
    ("hailort", "buffer_size", "4915200 bytes for an image of 1228800",
     "[HailoRT] [error] CHECK failed - Input buffer size 4915200 is different than expected 1228800 for input 'net/input_layer1'\nHAILO_INVALID_OPERATION(6)"),
    ("hailort", "not_activated", "did not activate", "[HailoRT] [error] CHECK failed - Trying to write to vstream net/input_layer1 before its network group is activated"),
    ("hailort", "already_active", "without a scheduler", "Cant activate network because a network is already activated\nHAILO_INVALID_OPERATION(6)"),
    ("hailort", "lost", "went away", "HailoCommunicationClosedException: Communication closed failure. Check server-client connection"),
    ("hailort", "timeout", "in time", "HailoRTTimeout: Received a timeout - hailort has failed because a timeout had occurred"),
    ("hailort", "timeout", "in time", "CHECK_SUCCESS failed with status=HAILO_TIMEOUT(4)"),
    ("hailort", "fw_control", "refused a command", "CHECK_SUCCESS failed with status=HAILO_FW_CONTROL_FAILURE(18)"),
    ("hailort", "invalid_operation", "does not allow", "HailoRTInvalidOperationException: Invalid operation. See hailort.log for more information"),
    ("hailort", "not_found", "has not", "HailoRTStatusException: 61"),
    ("hailort", "internal", "inside itself", "failed with status=HAILO_INTERNAL_FAILURE(8)"),
    ("hailort", "ioctl", "do not understand", "HailoRTStatusException: 85"),
    ("hailort", "ioctl", "do not understand", "HailoRTStatusException: 86"),
    ("hailort", "hef_damaged", "damaged", "HailoRTStatusException: 91"),
    ("hailort", "hef_arch", "another chip", "HailoRTStatusException: 93"),
    # Rockchip's runtime and driver
    ("rknnrt", "no_driver", "does not open", "E RKNN: [21:14:26.243] failed to open rknpu module, need to insmod rknpu dirver!\nE RKNN: [21:14:26.243] failed to open rknn device!"),
    ("rknnrt", "model_version", "older than the SDK", "E RKNN: [17:10:15.696] 6, 4\nE RKNN: [17:10:15.696] Invalid RKNN model version 6\nException: RKNN init failed. error code: RKNN_ERR_MODEL_INVALID"),
    ("rknnrt", "probe", "did not start", "RKNPU fdab0000.npu: can't request region for resource [mem 0xfdab0000-0xfdabffff]\nRKNPU fdab0000.npu: probe failed"),
    ("rknnrt", "openvx", "a machine that has none", "E OSError: libOpenVX.so.1.2: cannot open shared object file: No such file or directory"),
    ("rknnrt", "load_ack", "older runtime", "E RKNNAPI: rknn_init,  msg_load_ack fail, ack = 1(ACK_FAIL), expect 0(ACK_SUCC)!\nE Exception: RKNN init failed. error code: RKNN_ERR_MODEL_INVALID"),
    ("rknnrt", "model_invalid", "refuses the file", "Exception: RKNN init failed. error code: RKNN_ERR_MODEL_INVALID"),
    ("rknnrt", "driver", "did not finish", "E RKNN: [08:24:12.287] failed to submit!, op id: 1, op name: Conv:Conv_0, flags: 0x5, task start: 0"),
    ("rknnrt", "driver", "did not finish", "RKNPU: failed to wait job, task counter: 74, flags: 0x1, ret = -512, elapsed time: 13624us\nRKNPU: job abort, flags: 0x1, ret: 0"),
    ("rknnrt", "magic", "of its kind", "E RKNN: [11:40:07.311] parseRKNN from buffer: Invalid RKNN format!\nException: RKNN init failed. error code: RKNN_ERR_FAIL"),
    ("rknnrt", "load_ack", "older runtime", "E RKNNAPI: rknn_init,  recv(MsgLoadAck) fail, -9(ERROR_PIPE) != 368!"),
    ("rknnrt", "cpu_op", "no GridSample", "E RKNN: [11:31:52.606] Unsupport CPU op: GridSample in this librknnrt.so, please try to register custom op"),
    ("rknnrt", "core_mask", "no such core", "RuntimeError: rknn_set_core_mask failed for thread 0 with error code: -13"),
    ("rknnrt", "old_library", "no rknn_set_core_mask", "AttributeError: /usr/lib/librknnrt.so: undefined symbol: rknn_set_core_mask"),
    ("hailort", "interrupts", "no interrupt", "hailo 0000:05:00.0: Failed to enable MSI -28\n hailo 0000:05:00.0: Failed Enabling interrupts -28"),
    # Coral and Frigate
    ("edgetpu", "no_device", "not plugged in", "frigate.detectors.plugins.edgetpu_tfl ERROR   : No EdgeTPU was detected. If you do not have a Coral device yet, you must configure CPU detectors.\nValueError: Failed to load delegate from libedgetpu.so.1.0"),
    ("edgetpu", "not_compiled", "without its delegate", "RuntimeError: Encountered unresolved custom op: edgetpu-custom-op.Node number 0"),
    ("frigate", "extra_key", "model -> model_typ", "Line #  : 12\nKey     : model -> model_typ\nValue   : yolo-generic\nMessage : Extra inputs are not permitted"),
    ("frigate", "missing_key", "lacks mqtt", "Key     : mqtt\nValue   : {}\nMessage : Field required"),
    ("frigate", "outputs", "several outputs", "  File \"/opt/frigate/frigate/util/model.py\", line 98, in __post_process_multipart_yolo\n    bs, _, ny, nx = output.shape\nValueError: not enough values to unpack (expected 4, got 3)"),
    ("frigate", "input_dtype", "wants float numbers", "INVALID_ARGUMENT : Unexpected input data type. Actual: (tensor(uint8)) , expected: (tensor(float))"),
    ("frigate", "input_size", "another shape", "INVALID_ARGUMENT : Got invalid dimensions for input: images for the following indices\n index: 2 Got: 320 Expected: 640"),
    ("frigate", "input_size", "another shape", "RuntimeError: Parameter mismatch: input tensor shape {1,416,416,3} does not match model input shape {1,3,416,416}"),
    ("frigate", "no_hailort", "no HailoRT inside", "UnboundLocalError: cannot access local variable 'VDevice' where it is not associated with a value"),
    ("frigate", "labels", "class 184", "    (self.labels[int(d[0])], float(d[1]), (d[2], d[3], d[4], d[5]))\nKeyError: 184"),
    ("frigate", "hailo_timeout", "within a second", "frigate.detectors.plugins.hailo8l ERROR   : Timeout waiting for inference results for request 1234"),
    ("frigate", "privileged", "which chip", "Exception: Make sure to run docker in privileged mode."),
    ("frigate", "soc", "chip rk3399", "Exception: Your SoC is not supported. Your SoC is: rk3399. Currently these SoCs are supported: ['rk3562']."),
    ("frigate", "shared_memory", "too small", "Fatal Python error: Bus error"),
    ("hailort", "renamed_package", "no such version", "Error: Unable to locate package hailo-dkms\nError: Version '4.19.0-3' for 'hailort' was not found"),
    # the rest of what each tool is known to say, one line each
    ("rknn", "no_torch", "wants PyTorch",
     "E   File \"rknn/api/rknn_base.py\", line 264, in rknn.api.rknn_base.RKNNBase.load_onnx\nE ImportError: No module named 'torch'"),
    ("rknn", "unknown_op", "does not know",
     "E load_onnx:   File \"rknn/api/rknn_base.py\", line 1182, in rknn.api.rknn_base.RKNNBase.load_onnx\nE load_onnx: InvalidGraph: [ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model."),
    ("rknn", "dynamic", "no fixed size",
     "E load_onnx: Invalid input_shape = [0, 300, 300, 3] for input 0!"),
    ("rknn", "mean", "number of channels",
     "E build: Input tensor channel number must be equal to mean value, but 1 vs 3."),
    ("rknn", "quantized", "quantized already",
     "E build: Not support QAT model!"),
    ("rknn", "file", "does not find",
     "E load_onnx: Model file ./best.onnx not found!"),
    ("rknn", "platform", "does not know the chip",
     "E config: Invalid target_platform 'RK3599'!"),
    ("rknnrt", "power", "switch the NPU on",
     "rockchip-pm-domain fdd90000.power-management:power-controller: failed to get ack on domain 'npu', target_idle = 0, target_ack = 0, val=0x1ee"),
    ("rknnrt", "driver_version", "driver is 0.6.4, and librknnrt wants 0.7.0",
     "E RKNN: Mismatch driver version, librknnrt version: 1.4.0 requires driver version >= 0.7.0, but you have driver version: 0.6.4 which is incompatible!"),
    ("rknnrt", "bad_library", "no library for this processor",
     "OSError: /usr/lib/librknnrt.so: invalid ELF header"),
    ("rknnrt", "no_library", "not where",
     "./demo: error while loading shared libraries: librknnrt.so: cannot open shared object file: No such file or directory"),
    ("rknnrt", "no_package", "not installed",
     "ModuleNotFoundError: No module named 'rknnlite'"),
    ("rknnrt", "no_chip", "on which chip",
     "Exception: Unsupported run platform: Linux aarch64"),
    ("rknnrt", "cable", "end of a cable",
     "E RKNNAPI: rknn_init,  driver open fail!  ret = -12(ERROR_NOT_SUPPORTED)!\nNone devices connected.\nException: RKNN init failed. error code: RKNN_ERR_DEVICE_UNAVAILABLE"),
    ("rknnrt", "server", "does not run",
     "E NPUTransfer: Cannot connect to proxy: Connection refused\nE RKNNAPI: rknn_init,  driver open fail!  ret = -4(ERROR_NO_DEVICE)!"),
    ("rknnrt", "magic", "of its kind",
     "E RKNN: [11:51:52.906] invalid rknn llm model magic"),
    ("rknnrt", "header", "another version",
     "E RKNN: [07:13:44.229] rknn_query, info_len(372) < sizeof(rknn_tensor_attr)(376)!"),
    ("rknnrt", "dimensions", "batch dimension",
     "ValueError: The input[0] need 4dims input, but 3dims input buffer feed."),
    ("rknnrt", "not_loaded", "did not load",
     "E RKNN model data is None, please load model first!"),
    ("rknnrt", "timeout", "in time",
     "E inference: Run timeout, if you load a very large model, please set a larger timeout by environment variable and restart"),
    ("rknnrt", "unavailable", "no NPU",
     "E Exception: RKNN init failed. error code: RKNN_ERR_DEVICE_UNAVAILABLE"),
    ("rknnrt", "core_mask", "no such core",
     "E RKNNAPI: SET_CORE_MASK fail, ack = ACK_FAIL, expect = ACK_SUCC! Please confirm that it is called on multi-core NPU platforms!"),
    ("edgetpu", "driver", "not there for this kernel",
     "modprobe: FATAL: Module apex not found in directory /lib/modules/6.1.0-18-amd64"),
    ("edgetpu", "driver", "not there for this kernel",
     "/var/lib/dkms/gasket/1.0/build/gasket_core.c:1841:41: error: passing argument 1 of 'class_create' from incompatible pointer type"),
    ("edgetpu", "pcie", "could not start",
     "apex 0000:04:00.0: RAM did not enable within timeout (12000 ms)\napex 0000:04:00.0: Error in device open cb: -110"),
    ("edgetpu", "runtime", "version 14, and here is 13",
     "Failed precondition: Package requires runtime version (14), which is newer than this runtime version (13)."),
    ("edgetpu", "stopped", "heat, power or the cable",
     "E driver/mmio_driver.cc:254] HIB Error. hib_error_status = 0000000000002200, hib_first_error_status = 0000000000000200"),
    ("edgetpu", "python", "PyCoral",
     "ModuleNotFoundError: No module named 'pycoral.utils'"),
    ("edgetpu", "versions", "belong together",
     "RuntimeError: Internal: :77 tf_lite_type != kTfLiteUInt8 (2 != 3)Node number 2 (EdgeTpuDelegateForCustomOp) failed to prepare."),
    ("edgetpu", "newer_operator", "CONV_2D of version 5",
     "Edge TPU Compiler version 16.0.384591198\nERROR: Didn't find op for builtin opcode 'CONV_2D' version '5'"),
    ("frigate", "extra_key", "does not know",
     "cameras -> gate -> ffmpeg -> roles\n  extra fields not permitted (type=value_error.extra)"),
    ("frigate", "missing_key", "lacks",
     "cameras -> gate -> detect\n  field required (type=value_error.missing)"),
    ("frigate", "missing_key", "lacks ffmpeg",
     "***    Config Validation Errors                           ***\n*************************************************************\n'ffmpeg'\nTraceback (most recent call last):"),
    ("frigate", "config", "objects -> track is not valid: Input should",
     "Key     : objects -> track\nValue   : person\nMessage : Input should be a valid list"),
    ("frigate", "config", "not valid (Value error, Zones",
     "***    Config Validation Errors                           ***\nMessage : Value error, Zones cannot share names with cameras"),
    ("frigate", "read_only", "read-only",
     "frigate.util.config            ERROR   : Config file is read-only, unable to migrate config file."),
    ("frigate", "yaml", "no valid YAML",
     "mapping values are not allowed here\n  in \"/config/config.yml\", line 52, column 52"),
    ("frigate", "outputs", "not those that Frigate reads",
     "Process frigate.detector:ov:\nTraceback (most recent call last):\nValueError: could not broadcast input array from shape (6,) into shape (7,)"),
    ("frigate", "outputs", "not those that Frigate reads",
     "frigate.detectors.plugins.openvino ERROR   : SSD models must only have 1 output. Found 3."),
    ("frigate", "model_type", "does not take such a model (yolov8)",
     "frigate.detectors.plugins.openvino ERROR   : OpenVino detector does not support yolov8 models."),
    ("frigate", "model_path", "/config/yard.onnx",
     "FileNotFoundError: [Errno 2] No such file or directory: '/config/yard.onnx'"),
    ("frigate", "no_hailo", "no Hailo chip",
     "frigate.detectors.plugins.hailo8l ERROR   : Inference error: Could not determine Hailo architecture."),
    ("frigate", "tensorrt", "another version of TensorRT",
     "Error Code 1: Serialization (Serialization assertion stdVersionRead == serializationVersion failed.Version tag does not match."),
    ("onnxruntime", "cuda", "not used",
     "[ONNXRuntimeError] : 1 : FAIL : LoadLibrary failed with error 126 \"\" when trying to load \"C:\\\\app\\\\onnxruntime_providers_cuda.dll\""),
    ("onnxruntime", "cuda_failed", "GPU refuses",
     "[E:onnxruntime:Default, cuda_call.cc:118 CudaCall] CUDA failure 2: out of memory ; GPU=0 ;"),
    ("onnxruntime", "cuda_failed", "GPU refuses",
     "running Cast node. Name:'/Cast' Status Message: HIP error hipErrorInvalidDeviceFunction:invalid device function"),
    ("onnxruntime", "opset", "opset 26",
     "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. Opset 26 is under development and support for this is limited."),
    ("onnxruntime", "not_implemented", "Relu(1)",
     "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for the node Relu(1)"),
    ("onnxruntime", "unknown_op", "does not know: Foo",
     "[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. In Node, (\"\", Foo, \"\", -1), Error No Op registered for Foo with domain_version of 13"),
    ("onnxruntime", "file", "no .onnx",
     "[ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model from best.onnx failed:Load model best.onnx failed. File doesn't exist"),
    ("onnxruntime", "invalid", "not valid",
     "[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. Type Error: Type 'tensor(int64)' of input parameter (x) of operator (Sqrt) in node () is invalid."),
    ("onnxruntime", "input", "number of dimensions",
     "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: x Got: 3 Expected: 4 Please fix either the inputs/outputs or the model."),
    ("onnxruntime", "memory", "no memory left",
     "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824"),
    ("openvino", "device", "GPU",
     "Failed to create plugin libopenvino_intel_gpu_plugin.so for device GPU\nPlease, check your environment"),
    ("openvino", "device", "does not reach",
     "L0 pfnAppendGraphExecute result: ZE_RESULT_ERROR_UNINITIALIZED, code 0x78000001 - driver is not initialized"),
    ("openvino", "gpu_program", "could not compile or hold",
     "onednn_verbose,v1,primitive,error,ocl,errcode -6,CL_OUT_OF_HOST_MEMORY,src/gpu/intel/ocl/ocl_gpu_engine.cpp:261"),
    ("openvino", "npu_compiler", "does not take the model",
     "L0 pfnCreate2 result: ZE_RESULT_ERROR_INVALID_ARGUMENT, code 0x78000004 . [NPU_VCL] Compiler returned msg:\nCompilation failed"),
    ("openvino", "file", "best.xml",
     "FrontEnd API failed with GeneralFailure:\nir: Could not open the file: \"/models/best.xml\""),
    ("openvino", "input", "another shape or type",
     "Can't set the input tensor with index: 0, because the model input (shape=[1,3,4,4]) and the tensor (shape=(1.4.4.3)) are incompatible"),
    ("litert", "newer_operator", "operation 132",
     "ValueError: Op builtin_code out of range: 132. Are you using old TFLite binary with newer model?Registration failed."),
    ("litert", "custom_op", "Enter",
     "RuntimeError: Encountered unresolved custom op: Enter.Node number 8 (Enter) failed to prepare"),
    ("litert", "dynamic", "not fixed",
     "RuntimeError: Attempting to use a delegate that only supports static-sized tensors with a graph that has dynamic-sized tensors (tensor#105 is a dynamic-sized tensor)."),
    ("litert", "micro_op", "CUSTOM",
     "Failed to get registration from op code CUSTOM"),
    ("litert", "arena", "(11373728 bytes, of 1135736)",
     "Failed to resize buffer. Requested: 11373728, available 1135736, missing: 10237992"),
    ("litert", "file", "best.tflite",
     "ValueError: Could not open '/models/best.tflite'.The model allocation is null/empty"),
    ("litert", "node", "SPACE_TO_BATCH_ND",
     "final_dim_size % block_shape[dim] != 0 (4 != 0)Node number 66 (SPACE_TO_BATCH_ND) failed to prepare."),
    ("vela", "input_file", "no .tflite",
     "RuntimeError: Compilation failed: No networks defined via GraphAPI"),
    ("vela", "does_not_fit", "does not fit",
     "Error: Allocation failed: tensors exceed the arena"),
    ("vela", "internal", "could not place",
     "RuntimeError: Non-passthrough operation could not run on NPU"),
    ("linux", "secure_boot", "not signed",
     "modprobe: ERROR: could not insert 'apex': Key was rejected by service"),
    ("linux", "dkms", "this kernel",
     "Building module(s)...(bad exit status: 2)\nFailed command:\nmake -j20 KERNELRELEASE=6.14.8-2-pve"),
    ("linux", "gpu_driver", "no NVIDIA GPU",
     "docker: Error response from daemon: could not select device driver \"nvidia\" with capabilities: [[gpu]]"),
    ("linux", "page_size", "memory pages of 4 KB",
     "Error importing detector runtime: pyopenvino.cpython-39-aarch64-linux-gnu.so: ELF load command alignment not page-aligned"),
    ("linux", "numpy", "another NumPy",
     "ImportError: numpy.core.multiarray failed to import"),
    ("hailo", "state", "optimize is called before",
     "InvalidStateException: The execution of optimize is not available under the state: UNINITIALIZED"),
    ("hailort", "wheel_version", "_ZN7hailort20ConfiguredInferModel20get_async_queue_sizeEv is missing",
     "ImportError: _pyhailort.cpython-311-aarch64-linux-gnu.so: undefined symbol: _ZN7hailort20ConfiguredInferModel20get_async_queue_sizeEv"),
    ("hailort", "wrong_driver", "a Hailo-8 or 8L",
     "pci 0000:03:00.0: [1e60:2864] type 00 class 0x0b4000 PCIe Endpoint\nhailo1x: Init module. driver version 5.3.0"),
    ("hailort", "probe", "could not start",
     "hailo 0000:01:00.0: Failed activating board -110\nhailo: probe of 0000:01:00.0 failed with error -110"),
    ("hailort", "postprocess", "libyolo_hailortpp_postprocess.so",
     "Could not load lib resources/libyolo_hailortpp_postprocess.so: cannot open shared object file: No such file or directory"),
    ("hailort", "tappas", "libgsthailometa.so.3",
     "ImportError: libgsthailometa.so.3: cannot open shared object file: No such file or directory"),
    ("hailort", "rpicam", "(hef_file)",
     "Reading post processing stage \"hailo_yolo_inference\"\nERROR: *** No such node (hef_file) ***"),
    ("hailort", "argument", "does not take",
     "CHECK_SUCCESS failed with status=HAILO_INVALID_ARGUMENT(2)"),
    ("hailort", "not_supported", "does not do",
     "CHECK_SUCCESS failed with status=HAILO_NOT_SUPPORTED(79)"),
]  # fmt: skip

WORSE = [  # it goes on, with less than was asked for
    ("level_reduced", "reduced to 0: fewer than 1024 photos, and no free GPU",
     "[warning] Reducing optimization level to 0 (the accuracy won't be optimized and compression won't be used) because there's less data than the recommended amount (1024), and there's no available GPU"),
    ("level_reduced", "reduced to 1: fewer than 1024 photos",
     "[warning] Reducing optimization level to 1 because there's less data than the recommended amount (1024)"),
    ("compression_reduced", "reduced to 0",
     "[warning] Reducing compression level to 0 because requested optimization level equal or less than 1"),
    ("output_bits", "yolov8n/conv42", "[warning] Reducing output bits of yolov8n/conv42 by 5.0 bits (More than half)"),
    ("snr", "0.0004649 dB", "[info] \tnet/output_layer1 SNR:\t0.0004649 dB"),
    ("snr", "-1.2 dB", "[info] net/output_layer2 SNR: -1.2 dB"),
]  # fmt: skip


def told(log: str) -> list[tuple[str, str, str]]:
    return [(f.tool, f.code, f.message) for f in doctor.explain(log.encode())]


@pytest.mark.parametrize(("tool", "code", "text", "line"), BAD, ids=lambda v: str(v)[:24])
def test_what_is_wrong_is_named_once_and_nothing_else(
    tool: str, code: str, text: str, line: str
) -> None:
    found = doctor.explain(f"something before\n{line}\nsomething after\n".encode())
    assert [(f.tool, f.code, f.level) for f in found] == [(tool, code, "error")]
    assert text in found[0].message and found[0].cure
    assert found[0].said and found[0].said in line
    failure = doctor.failure_of(found)
    assert failure is not None and failure.exit_code == (5 if tool in ("hailort", "rknnrt") else 4)


@pytest.mark.parametrize(("code", "text", "line"), WORSE, ids=lambda v: str(v)[:24])
def test_what_is_worse_than_asked_is_a_warning(code: str, text: str, line: str) -> None:
    found = doctor.explain(f"[info] before\n{line}\n[info] after".encode())
    assert [(f.code, f.level) for f in found] == [(code, "warning")]
    assert text in found[0].message
    assert doctor.failure_of(found) is None


def test_every_status_code_is_known_by_number_and_by_name() -> None:
    """Those of HailoRT's header that a user can do something about."""
    names = {
        3: "OUT_OF_HOST_MEMORY", 4: "TIMEOUT", 6: "INVALID_OPERATION", 7: "NOT_IMPLEMENTED", 8: "INTERNAL_FAILURE",
        16: "UNSUPPORTED_FW_VERSION", 18: "FW_CONTROL_FAILURE", 26: "INVALID_HEF", 36: "DRIVER_OPERATION_FAILED",
        61: "NOT_FOUND", 62: "COMMUNICATION_CLOSED", 64: "DRIVER_NOT_INSTALLED", 69: "NETWORK_GROUP_NOT_ACTIVATED",
        71: "OUT_OF_FW_MEMORY", 73: "DEVICE_IN_USE", 74: "OUT_OF_PHYSICAL_DEVICES", 76: "INVALID_DRIVER_VERSION",
        78: "INVALID_SERVICE_VERSION", 81: "OUT_OF_HOST_CMA_MEMORY", 85: "DRIVER_INVALID_RESPONSE",
        86: "DRIVER_INVALID_IOCTL", 87: "DRIVER_TIMEOUT", 91: "HEF_FILE_CORRUPTED", 92: "HEF_NOT_SUPPORTED",
        93: "HEF_NOT_COMPATIBLE_WITH_DEVICE",
    }  # fmt: skip
    for number, name in names.items():
        ways = [
            f"CHECK_SUCCESS failed with status=HAILO_{name}({number})",
            f"libhailort failed with error: {number} (HAILO_{name})",
            f"_pyhailort.HailoRTStatusException: {number}\n",
            f"CHECK_EXPECTED failed with status={number}",
        ]
        codes = {tuple(code for _, code, _ in told(way)) for way in ways}
        assert len(codes) == 1 and len(codes.pop()) == 1, (number, [told(w) for w in ways])
    assert told("HailoRTStatusException: 5") == told("finished with status=4 and error: 8") == []


PARSED = """\
<Hailo Model Zoo INFO> Start run for network yolov8n ...
<Hailo Model Zoo INFO> Initializing the runner...
[info] Translation started on ONNX model yolov8n
[info] Restored ONNX model yolov8n (completion time: 00:00:00.04)
[info] Extracted ONNXRuntime meta-data for Hailo model (completion time: 00:00:00.26)
[info] NMS structure of yolov8 (or equivalent architecture) was detected.
[info] In order to use HailoRT post-processing capabilities, these end node names should be used: /model.22/cv2.0/cv2.0.2/Conv /model.22/cv3.0/cv3.0.2/Conv.
[info] Start nodes mapped from original model: 'images': 'yolov8n/input_layer1'.
[info] End nodes mapped from original model: '/model.22/cv2.0/cv2.0.2/Conv', '/model.22/cv3.0/cv3.0.2/Conv'.
[info] Translation completed on ONNX model yolov8n (completion time: 00:00:00.67)
[info] Saved HAR to: /home/ubuntu/yolov8n.har
"""
OPTIMIZED = """\
[info] Loading model script commands to yolov8n from hailo_model_zoo/cfg/alls/hailo8/base/yolov8n.alls
[info] Starting Model Optimization
[warning] Reducing optimization level to 0 (the accuracy won't be optimized and compression won't be used) because there's no available GPU
[warning] Running model optimization with zero level of optimization is not recommended for production use and might lead to suboptimal accuracy results
[info] Model received quantization params from the hn
[info] Starting Mixed Precision
[info] Mixed Precision is done (completion time is 00:00:00.26)
[info] Starting Stats Collector
[info] Using dataset with 64 entries for calibration
Calibration:   1%|          | 1/64\rCalibration: 100%|██████████| 64/64 [00:15<00:00,  4.08entries/s]
[info] Adaround skipped
[info] Layer Noise Analysis skipped
[info] Model Optimization is done
[info] Saved HAR to: /home/ubuntu/yolov8n.har
"""
COMPILED = """\
[info] To achieve optimal performance, set the compiler_optimization_level to "max" by adding performance_param(compiler_optimization_level=max) to the model script.
[info] Adding an output layer after conv41
[warning] Output order different size
[info] Starting Hailo allocation and compilation flow
[info] Single context flow failed: Recoverable single context error
[info] Using Multi-context flow
[info] Resources optimization params: max_control_utilization=75%, max_compute_utilization=75%
[info] Found valid partition to 4 contexts
[error] Error has occured during the layer latency calculation
[info] Solving the allocation (Mapping), time per context: 59m 59s
Reverts on pre-mapping validation: 0
Reverts on split failed: 0
[info] | cluster_7 | 100%                | 73.4%               | 38.3%              |
[info] Successful Mapping (allocation time: 23s)
[info] Output layers signal-to-noise ratio (SNR): measures the quantization noise (higher is better)
[info] \tyolov8n/output_layer1 SNR:\t21.52 dB
[info] Building HEF...
[info] Successful Compilation (compilation time: 14s)
<Hailo Model Zoo INFO> HEF file written to yolov8n.hef
"""
RUNNING = """\
Running streaming inference (yolov8n.hef):
Network yolov8n/yolov8n: 100% | 924 | FPS: 184.58 | ETA: 00:00:00
[2024-08-24 22:02:33] frigate.detectors.plugins.hailo8l INFO    : Hailo device initialized successfully
[2024-08-24 22:02:40] ffmpeg.bedroom.detect          ERROR   : rtsp://192.168.31.100:554/stream1: Connection refused
[2024-08-24 22:02:41] frigate.video                  ERROR   : Max retries exceeded with url: /api (Caused by ProxyError)
[   67.062136] hailo_pci: loading out-of-tree module taints kernel.
[   67.062191] hailo_pci: module verification failed: signature and/or required key missing - tainting kernel
[   67.068815] hailo: Init module. driver version 4.18.0
[   67.069665] hailo 0000:04:00.0: Probing on: 1e60:2864...
[   67.069670] hailo 0000:04:00.0: Probing: Allocate memory for device extension, 11632
[   67.080000] hailo 0000:04:00.0: Probing: Setting max_desc_page_size to 4096, (page_size=4096)
[   67.090000] hailo 0000:04:00.0: NNC Firmware loaded successfully
[   67.090001] hailo 0000:04:00.0: Probing: Added board 1e60-2864, /dev/hailo0
systemd[1]: hailort.service: Main process exited, code=exited, status=4/NOPERMISSION
"""


RKNN_RUNNING = """\
W rknn-toolkit-lite2 version: 2.3.2
--> Load RKNN model
done
--> Init runtime environment
I RKNN: [14:34:00.921] RKNN Runtime Information, librknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)
I RKNN: [14:34:00.922] RKNN Driver Information, version: 0.9.8
I RKNN: [14:34:00.922] RKNN Model Information, version: 6, toolkit version: 2.3.2(compiler version: 2.3.2 (@2025-04-03T08:26:16)), target: RKNPU v2, target platform: rk3588, framework name: ONNX, framework layout: NCHW, model inference type: static_shape
W RKNN: [14:34:00.930] query RKNN_QUERY_INPUT_DYNAMIC_RANGE error, rknn model is static shape type, please export rknn with dynamic_shapes
W Query dynamic range failed. Ret code: RKNN_ERR_MODEL_INVALID. (If it is a static shape RKNN model, please ignore the above warning message.)
W The input[0] need NHWC data format, but NCHW set, the data format and data buffer will be changed to NHWC.
done
--> Running model
resnet18
-----TOP 5-----
"""
RKNPU_KERNEL = """\
[    3.493781] RKNPU fdab0000.npu: Adding to iommu group 0
[    3.494283] RKNPU fdab0000.npu: RKNPU: rknpu iommu is enabled, using iommu mode
[    3.495987] RKNPU fdab0000.npu: can't request region for resource [mem 0xfdab0000-0xfdabffff]
[    3.496000] [drm] Initialized rknpu 0.9.8 20240828 for fdab0000.npu on minor 1
"""
FRIGATE = """\
2025-05-21 18:05:47.029385462  [2025-05-21 20:05:47] frigate.app                    INFO    : Starting Frigate (0.15.0-6cb5cfb)
2025-05-21 18:05:47.041560791  [2025-05-21 20:05:47] peewee_migrate.logs            INFO    : There is nothing to migrate
2025-05-21 18:05:47.074335148  [2025-05-21 20:05:47] frigate.app                    INFO    : go2rtc process pid: 94
2025-05-21 18:05:47.093053697  [2025-05-21 20:05:47] detector.coral                 INFO    : Starting detection process: 416
2025-05-21 18:05:47.124036647  [2025-05-21 20:05:47] frigate.detectors.plugins.edgetpu_tfl INFO    : Attempting to load TPU as usb
2025-05-21 18:05:49.724036647  [2025-05-21 20:05:49] frigate.detectors.plugins.edgetpu_tfl INFO    : TPU found
2025-05-21 18:05:50.000000000  [2025-05-21 20:05:50] frigate.comms.mqtt             INFO    : MQTT connected
2025-05-21 18:06:11.000000000  [2025-05-21 20:06:11] frigate.watchdog               ERROR   : No new recording segments were created for front in the last 120s. Restarting the ffmpeg record process...
"""


def test_good_logs_have_no_cause() -> None:
    for log in (PARSED, COMPILED, RUNNING, RKNN_RUNNING, RKNPU_KERNEL, FRIGATE):
        assert told(log) == []
    ((tool, code, message),) = told(PARSED + OPTIMIZED + COMPILED)
    assert (tool, code) == ("hailo", "level_reduced")
    assert "reduced to 0: no GPU is free" in message
    assert told("") == []


def test_the_cause_comes_before_what_follows_from_it() -> None:
    """A container of another version: its own message is vague, the kernel's is not."""
    frigate = "HailoRTException: PCIe driver failure.\n_pyhailort.HailoRTStatusException: 36\n"
    kernel = "hailo 0000:04:00.0: Invalid general ioctl code 0x400c6705 (nr: 5)\n"
    assert [code for _, code, _ in told(frigate)] == ["driver_failed"]
    assert [code for _, code, _ in told(frigate + kernel)] == ["ioctl"]
    both = "Driver version (4.17.0) is different from library version (4.18.0)\n"
    assert [code for _, code, _ in told(frigate + kernel + both)] == ["driver_version"]


def test_causes_of_several_tools_are_all_told() -> None:
    log = "E RKNN: invalid RKNN_MAGIC!\nHAILO_TIMEOUT(4)\nE load_onnx: Unsupport onnx opset 22, need <= 19!\n"
    assert [(t, c) for t, c, _ in told(log)] == [
        ("rknn", "opset"),
        ("rknnrt", "magic"),
        ("hailort", "timeout"),
    ]


def test_the_table_is_sound() -> None:
    for tool in known.tools():
        before: set[str] = set()
        for line in known.lines(tool):
            assert set(line.after) <= before - {line.code}  # else they would never be found in time
            before.add(line.code)
            assert line.message[0].islower() or line.message[0] in "{H"
            assert not line.message.endswith(".") and not line.cure.endswith(".")
            groups = re.compile(line.pattern).groups
            assert all(int(n) < groups for n in re.findall(r"{(\d)}", line.message + line.cure))


FRAGMENTS = (
    [line for *_, line in BAD] + [line for *_, line in WORSE] + ["\x1b[31m", "\r", "\n", "(", "{0}"]
)


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=40), max_size=8))
def test_whatever_a_log_holds_it_is_explained_in_single_lines(parts: list[str]) -> None:
    log = "".join(parts).encode(errors="replace")
    if b"\0" in log[:4096] or log[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    found = doctor.explain(log)
    assert len({(f.tool, f.code) for f in found}) == len(found)
    for finding in found:
        assert "\n" not in finding.message + finding.cure + finding.said


def test_a_log_without_end_and_a_line_without_end() -> None:
    """A pattern that goes back over all that it read would not come to an end here."""
    many = b"Starting Layer Noise Analysis: HAR version, No successful assignments: a\n"
    found = doctor.explain(many * (2 * doctor.MOST_LOG // len(many)))
    assert [f.code for f in found] == ["agent_infeasible"]
    assert doctor.explain(b"error " * doctor.MOST_LOG) == ()


# --- how logs are written


def test_colours_progress_bars_and_other_codings() -> None:
    line = "\x1b[31m[error]\x1b[0m Mapping \x1b[1mFailed\x1b[0m\r\n"
    assert [c for _, c, _ in told(line)] == ["allocation"]
    for coding in ("utf-16-le", "utf-16-be"):
        data = "\ufeffHAILO_TIMEOUT(4)\r\n".encode(coding)
        assert [f.code for f in doctor.explain(data)] == ["timeout"]
    assert [f.code for f in doctor.explain(b"\xff\xfa HAILO_TIMEOUT(4)")] == ["timeout"]


def test_what_is_no_log() -> None:
    with pytest.raises(InputError, match="not a log"):
        doctor.explain(b"\x01HEF\0\0\0\2 HAILO_TIMEOUT(4)")


# --- machines


class Machine:
    """A file system, programs and packages of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.site = folder / "site"
        for path in (self.root, self.bin, self.site):
            path.mkdir()
        self.place = Place(self.root, str(self.bin), (str(self.site),))

    def file(self, path: str, text: str = "") -> Path:
        made = self.root / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        return made

    def chip(self, device: str = "0x2864", address: str = "0001:01:00.0") -> None:
        self.file(f"sys/bus/pci/devices/{address}/vendor", "0x1e60\n")
        self.file(f"sys/bus/pci/devices/{address}/device", f"{device}\n")

    def driver(self, version: str, module: str = "hailo_pci") -> None:
        self.file(f"sys/module/{module}/version", f"{version}\n")

    def library(self, version: str, folder: str = "usr/lib") -> None:
        self.file(f"{folder}/libhailort.so.{version}")
        (self.root / folder / "libhailort.so").unlink(missing_ok=True)
        (self.root / folder / "libhailort.so").symlink_to(f"libhailort.so.{version}")

    def hailortcli(self, version: str, identify: str, code: int = 0) -> None:
        path = self.bin / "hailortcli"
        path.write_text(
            f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'HailoRT-CLI version {version}' && exit 0\n"
            f"/bin/cat <<'END'\n{identify}\nEND\n: > hailort.log\nexit {code}\n"
        )
        path.chmod(0o755)

    def package(self, version: str, folder: Path | None = None) -> None:
        info = (folder or self.site) / f"hailort-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: hailort\nVersion: {version}\n"
        )

    def checks(self) -> dict[str, Check]:
        return {c.name: c for c in probe.Hailo(self.place).checks()}

    def wrong(self) -> dict[str, str]:
        """What is wrong, by the check that says so."""
        return {n: f"{c.level}: {c.problem}" for n, c in self.checks().items() if c.problem}


def identity(firmware: str = "4.20.0", chip: str = "HAILO8L") -> str:
    return f"""\
Executing on device: 0001:01:00.0
Identifying board
Control Protocol Version: 2
Firmware Version: {firmware} (release,app,extended context switch buffer)
Logger Version: 0
Board Name: Hailo-8
Device Architecture: {chip}
Serial Number: HLDDLBB234500054
Product Name: HAILO-8L AI ACC M.2 B+M KEY MODULE EXT TMP
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "toolchains"))
    return Machine(tmp_path)


@pytest.fixture
def board(bare: Machine) -> Machine:
    """A Raspberry Pi 5 with a Hailo-8L on which all is well."""
    bare.chip()
    bare.file("sys/bus/pci/devices/0002:01:00.0/vendor", "0x1de4\n")
    bare.driver("4.20.0")
    bare.file("dev/hailo0")
    bare.library("4.20.0")
    bare.hailortcli("4.20.0", identity())
    bare.package("4.20.0")
    return bare


def test_all_is_well(board: Machine) -> None:
    assert board.wrong() == {}
    assert [f"{c.name}: {c.found}" for c in board.checks().values()] == [
        "chip: Hailo-8 or 8L at 0001:01:00.0, says HAILO8L",
        "driver: hailo_pci 4.20.0",
        "device: /dev/hailo0",
        "library: libhailort 4.20.0, hailortcli 4.20.0",
        "firmware: 4.20.0",
        "Python: hailort 4.20.0",
    ]
    assert list(board.root.glob("**/hailort.log")) == []


def test_nothing_is_there(bare: Machine) -> None:
    assert bare.checks() == {}
    (section,) = [s for s in doctor.look(place=bare.place) if s.title == "chips"]
    assert [c.found for c in section.checks] == ["nothing of Hailo or Rockchip is here"]


def test_driver_and_library_differ(board: Machine) -> None:
    board.driver("4.20.1")
    said = "[HailoRT] [error] CHECK failed - Driver version (4.20.1) is different from library version (4.20.0)"
    board.hailortcli("4.20.0", said, 76)
    assert board.wrong() == {
        "driver": "error: the driver is 4.20.1 and the library 4.20.0, and HailoRT runs only with equal ones"
    }


def test_the_driver_is_missing_or_another_chips(board: Machine) -> None:
    (board.root / "sys/module/hailo_pci/version").unlink()
    (board.root / "dev/hailo0").unlink()
    assert "its driver is not loaded" in board.wrong()["driver"]
    assert board.checks()["driver"].cure.startswith("sudo modprobe hailo_pci")
    board.driver("5.2.0", "hailo1x_pci")
    assert (
        "hailo1x_pci 5.2.0 is not the driver of this chip, which is hailo_pci"
        in board.wrong()["driver"]
    )
    board.driver("4.20.0")
    assert board.wrong()["driver"] == "warning: hailo1x_pci is loaded too, and may take the chip"


def test_a_chip_of_the_other_line(bare: Machine) -> None:
    bare.chip("0x45c4")
    assert bare.checks()["driver"].cure.startswith("sudo modprobe hailo1x_pci")
    bare.driver("5.2.0", "hailo1x_pci")
    bare.file("dev/h1x-0")
    bare.library("5.2.0", "usr/lib/aarch64-linux-gnu")
    bare.package("5.2.0")
    assert bare.wrong() == {}
    assert bare.checks()["chip"].found == "Hailo-10H at 0001:01:00.0"


def test_a_chip_that_is_not_known_yet(bare: Machine) -> None:
    bare.chip("0xffff")
    assert bare.checks()["chip"].found == "device 0xffff at 0001:01:00.0"
    assert "not loaded" in bare.wrong()["driver"]


def test_no_chip_answers(board: Machine) -> None:
    (board.root / "sys/bus/pci/devices/0001:01:00.0/vendor").write_text("0x1234\n")
    (board.root / "dev/hailo0").unlink()
    assert board.wrong() == {"chip": "warning: a driver is loaded, and no chip is there"}


def test_no_device_file_or_none_that_opens(board: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert board.wrong() == {"device": "error: this user may not open /dev/hailo0"}
    (board.root / "dev/hailo0").unlink()
    assert "made no device file" in board.wrong()["device"]


def test_libraries_are_mixed(board: Machine) -> None:
    board.hailortcli("4.19.0", identity())
    assert board.wrong() == {
        "library": "error: libhailort and hailortcli are of different versions"
    }
    board.library("4.19.0", "usr/local/lib")
    assert board.wrong() == {
        "library": "warning: there are several libraries: programs mix them up"
    }


def test_no_library_or_no_package(board: Machine) -> None:
    for path in board.root.glob("usr/lib/*"):
        path.unlink()
    (board.bin / "hailortcli").unlink()
    assert board.wrong() == {"library": "error: the chip is there, but HailoRT is not installed"}
    assert board.checks()["firmware"].found == "not asked: hailortcli or the device is missing"


def test_the_python_package(board: Machine) -> None:
    (board.site / "hailort-4.20.0.dist-info" / "METADATA").unlink()
    assert "onchip cannot run the chip without" in board.wrong()["Python"]
    board.package("4.20.0", board.root / "usr/lib/python3/dist-packages")
    assert board.wrong() == {"Python": "warning: onchip's Python does not see it"}
    assert "--system-site-packages" in board.checks()["Python"].cure
    board.package("4.19.0")
    assert board.wrong() == {"Python": "error: the Python package is 4.19.0 and the library 4.20.0"}


def test_the_firmware_is_of_another_version(board: Machine) -> None:
    board.hailortcli("4.20.0", identity("4.19.0"))
    assert board.wrong() == {"firmware": "error: the firmware is 4.19.0 and the library 4.20.0"}
    board.hailortcli("4.20.0", identity("4.20.7"))  # its last number may differ
    assert board.wrong() == {}


REFUSALS = {
    "HAILO_TIMEOUT(4)": "the chip did not answer in time",
    "Segmentation fault": "hailortcli does not reach the chip: Segmentation fault",
    "": "hailortcli does not reach the chip: it said nothing",
}


@pytest.mark.parametrize("said", REFUSALS)
def test_the_chip_does_not_answer(said: str, board: Machine) -> None:
    board.hailortcli("4.20.0", said, 1)
    if not said:
        (board.bin / "hailortcli").write_text("#!/bin/sh\nexit 3\n")
    wrong = board.wrong()
    assert list(wrong) == ["firmware"] and REFUSALS[said] in wrong["firmware"]


def test_hailortcli_hangs_or_does_not_run(board: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onchip.device.board.PATIENCE", 0.2)
    (board.bin / "hailortcli").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    assert "it did not answer within" in board.wrong()["firmware"]
    (board.bin / "hailortcli").write_bytes(b"\x7fELF")
    assert "it does not run" in board.wrong()["firmware"]


# --- files


def hef(**options: object) -> bytes:
    layer = hefs.Layer("input_layer1", (64, 64, 3))
    out = hefs.Layer("conv1", (8, 8, 16))
    return hefs.build(inputs=[layer], outputs=[out], ccws=b"x" * 64, **options)  # type: ignore[arg-type]


def of(board: Machine, data: bytes) -> dict[str, Check]:
    return {c.name: c for c in probe.Hailo(board.place).compiled("best.hef", data)}


def test_a_file_that_runs_here(board: Machine) -> None:
    found = of(board, hef(arch="hailo8l", sdk="3.30.0"))
    assert [(c.name, c.found, c.problem) for c in found.values()] == [
        ("built for", "HAILO8L, by compiler 3.30.0", ""),
        ("runs on", "hailo8l, hailo8", ""),
        ("runs with", "HailoRT 4.20 to 4.23", ""),
    ]


def test_a_file_for_another_chip(board: Machine) -> None:
    found = of(board, hef(arch="hailo8"))["runs on"]
    assert (found.level, found.cure) == ("error", "build it again: -t hailo8l")
    assert found.problem == "best.hef is built for HAILO8, and the chip here is a HAILO8L"
    board.hailortcli("4.20.0", identity(chip="HAILO8"))
    found = of(board, hef(arch="hailo8l"))["runs on"]
    assert found.level == "warning" and "with less speed" in found.problem


def test_a_file_that_is_newer_or_older_than_the_library(board: Machine) -> None:
    found = of(board, hef(arch="hailo8l", version=3))["runs with"]
    assert (
        found.level == "error"
        and "runs with HailoRT 4.21 to 4.23, and here is 4.20.0" in found.problem
    )
    assert found.cure == "update driver and library together"
    board.library("4.20.0")
    for path in board.root.glob("usr/lib/*"):
        path.unlink()
    board.library("4.23.0")
    found = of(board, hef(arch="hailo8l", version=0, extensions=[13]))["runs with"]
    assert found.level == "error" and found.cure == "build it again with a newer compiler"
    board.library("9.9.0", "usr/lib/x")
    assert not of(board, hef(arch="hailo8l"))["runs with"].problem  # of that nothing is known


def test_a_damaged_file(board: Machine) -> None:
    whole = hef(arch="hailo8l")
    found = of(board, whole[:-1] + b"y")["built for"]
    assert found.problem == "best.hef is damaged: its checksum is wrong"
    assert "cut off" in of(board, whole[:-9])["built for"].problem


# --- the command line


@pytest.fixture
def here(board: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The board, as this machine; the targets and toolchains are fixed too."""
    monkeypatch.setattr(doctor, "Place", lambda: board.place)
    monkeypatch.setattr(targets, "names", lambda: ("cpu", "one", "two"))
    parts = {
        "cpu": ("onnxruntime", "1.20", ""),
        "one": ("SDK", "", "install it"),
        "two": ("SDK", "", "install it"),
    }
    monkeypatch.setattr(targets, "get", lambda name: Fixed(targets.Part(*parts[name])))
    return board


class Fixed:
    """A target of which only one part matters."""

    def __init__(self, part: targets.Part) -> None:
        self._part = part

    def parts(self) -> tuple[targets.Part, ...]:
        return (self._part,)

    def trial(self, model: bytes) -> dict:
        return {}


HEALTHY = """\
Hailo
  chip      Hailo-8 or 8L at 0001:01:00.0, says HAILO8L
  driver    hailo_pci 4.20.0
  device    /dev/hailo0
  library   libhailort 4.20.0, hailortcli 4.20.0
  firmware  4.20.0
  Python    hailort 4.20.0
toolchains
  none  installed
targets
  onnxruntime  1.20, for cpu
  SDK          not here (install it), for one, two
"""

BROKEN = """\
Hailo
  chip      Hailo-8 or 8L at 0001:01:00.0, says HAILO8L
  driver    hailo_pci 4.19.0
    error: the driver is 4.19.0 and the library 4.20.0, and HailoRT runs only with equal ones
    do: install both of one version, and restart
  device    /dev/hailo0
  library   libhailort 4.20.0, hailortcli 4.20.0
  firmware  4.20.0
  Python    hailort 4.20.0
FILE
  built for  HAILO8, by compiler 3.33.1
  runs on    hailo8
    error: best.hef is built for HAILO8, and the chip here is a HAILO8L
    do: build it again: -t hailo8l
  runs with  HailoRT 4.20 to 4.23
toolchains
  none  installed
targets
  onnxruntime  1.20, for cpu
  SDK          not here (install it), for one, two
"""

EXPLAINED = """\
warning: the optimization level was reduced to 0: no GPU is free (one of whose memory 5 % are in use counts as busy)
  do: free the GPU (nvidia-smi), or ask for that level: -O level=0; and measure: onchip verify
  it says: [warning] Reducing optimization level to 0 (the accuracy won't be optimized and compression won't be used) because there's no available GPU
error: the kernel's driver is 4.18.0 and the library 4.17.0; HailoRT runs only with equal ones
  do: install driver and library of one version and restart; in a container (Frigate, …), take an image with HailoRT 4.18.0, or the host's driver 4.17.0
  it says: [HailoRT] [error] CHECK failed - Driver version (4.18.0) is different from library version (4.17.0)
"""


def test_a_healthy_board_in_words(here: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert capsys.readouterr() == (HEALTHY, "")


def test_a_broken_board_in_words(
    here: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.driver("4.19.0")
    path = tmp_path / "best.hef"
    path.write_bytes(hef(arch="hailo8"))
    assert run(["doctor", str(path)]) == 5
    out, err = capsys.readouterr()
    assert out == BROKEN.replace("FILE", str(path))
    assert err == (
        "error: 2 things are wrong\n"
        "  first: the driver is 4.19.0 and the library 4.20.0, and HailoRT runs only with equal ones\n"
    )
    assert run(["doctor", str(path), "--json"]) == 5
    data = json.loads(capsys.readouterr()[0])
    assert data["error"] == {
        "code": "device",
        "message": "2 things are wrong",
        "hint": err.split("\n")[1].strip(),
    }
    assert [s["title"] for s in data["sections"]] == ["Hailo", str(path), "toolchains", "targets"]
    assert data["sections"][0]["checks"][1] == {
        "name": "driver", "found": "hailo_pci 4.19.0", "level": "error",
        "problem": "the driver is 4.19.0 and the library 4.20.0, and HailoRT runs only with equal ones",
        "cure": "install both of one version, and restart",
    }  # fmt: skip


def test_a_log_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    log.write_text(
        OPTIMIZED
        + "[HailoRT] [error] CHECK failed - Driver version (4.18.0) is different from library version (4.17.0)\n"
    )
    assert run(["doctor", "--log", str(log)]) == 5
    out, err = capsys.readouterr()
    assert out == EXPLAINED
    assert err.startswith("error: 1 thing is wrong\n  first: the kernel's driver is 4.18.0")
    assert run(["doctor", "--log", str(log), "--json"]) == 5
    data = json.loads(capsys.readouterr()[0])
    assert [f["code"] for f in data["findings"]] == ["level_reduced", "driver_version"]
    assert set(data["findings"][0]) == {"tool", "code", "level", "message", "cure", "said"}
    log.write_text(OPTIMIZED)
    assert run(["doctor", "--log", str(log)]) == 0
    log.write_text(PARSED)
    assert run(["doctor", "--log", str(log)]) == 0
    assert capsys.readouterr()[0].endswith("nothing that onchip knows is wrong in this log\n")
    log.write_text("FileNotFoundError: no alls found for requested hw_arch")
    assert run(["doctor", "--log", str(log)]) == 4


def test_a_log_is_piped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = b"x" * (doctor.MOST_LOG + 5) + b"\nHAILO_TIMEOUT(4)\n"
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(data)))
    assert run(["doctor", "--log", "-"]) == 5
    assert "did not answer in time" in capsys.readouterr()[0]


def test_bad_input_is_one_clear_line(
    here: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.hef").write_bytes(b"nothing")
    (tmp_path / "a.onchip").write_bytes(b"nothing")
    (tmp_path / "a.bin").write_bytes(b"\x01HEF\0\0")
    for arguments, text in {
        ("--log", "none.txt"): "none.txt is not a file",
        ("--log", "."): ". is not a file",
        ("--log", "a.bin"): "not a log",
        ("--log", "a.txt", "a.hef"): "but not both",
        ("a.txt",): "not a compiled file",
        ("a.hef",): "a.hef",
        ("a.onchip",): "not a whole .onchip file",
        ("none.hef",): "there is no file",
    }.items():
        places = [a if a[0] in "-." else str(tmp_path / a) for a in arguments]
        assert run(["doctor", *places]) == 2, arguments
        err = capsys.readouterr()[1]
        assert text in err and err.count("\n") <= 2, err


def test_an_artifact_is_looked_into(
    tiny: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bare: Machine
) -> None:
    path = tmp_path / "best.onchip"
    assert run(["build", str(tiny), "-c", str(photos), "-o", str(path)]) == 0
    capsys.readouterr()
    assert run(["doctor", str(path)]) == 0
    out, _ = capsys.readouterr()
    assert f"{path}, for cpu\n  onnxruntime  " in out
    assert re.search(r"trial\n  best.onchip  runs, [\d.]+ ms an image\n", out)
    made = load(path).with_payloads({"program": ("program.hef", hef(arch="hailo8l"))})
    save(made, path)
    assert run(["doctor", str(path)]) == 5  # that is no program for a processor
    assert "best.onchip  does not run" in capsys.readouterr()[0]
    save(Artifact(replace(made.manifest, target="hailo8l"), made.payloads), path)
    assert run(["doctor", str(path)]) == 0  # its runtime is not here, so it is not tried
    assert f"{path}\n  built for  HAILO8L, by compiler 3.33.1\n" in capsys.readouterr()[0]


def test_toolchains_and_the_gpu(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half installed SDK is an error of a tool; a busy GPU is worth a word to one that wants it."""
    folder = Path(os.environ["ONCHIP_TOOLCHAINS"]) / "hailo-3.33.1"
    folder.mkdir(parents=True)
    (folder / "install.log").write_text("")
    busy = machine.Gpu(0, "RTX", 4000, 8000)
    monkeypatch.setattr(machine, "gpus", lambda: (busy,))
    sections = doctor.look(place=bare.place)
    found = {c.name: c for s in sections if s.title == "toolchains" for c in s.checks}
    assert found["hailo 3.33.1"].problem == "hailo 3.33.1 is only half installed"
    assert found["hailo 3.33.1"].cure == "run: onchip toolchain install hailo --wheel FILE"
    assert (found["GPU"].level, found["GPU"].found) == ("warning", "RTX, 50 % of 8000 MB in use")
    failure = doctor.failure(sections)
    assert failure is not None and failure.exit_code == 4
    monkeypatch.setattr(machine, "gpus", lambda: (busy, machine.Gpu(1, "RTX", 100, 8000)))
    found = {c.name: c for s in doctor.look(place=bare.place) for c in s.checks}
    assert not found["GPU"].problem


def test_a_target_that_is_broken_breaks_only_itself(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Fixed:
        if name == "one":
            raise InputError("target 'one' cannot be loaded: boom", "install it again")
        return Fixed(targets.Part("SDK", "2.0", ""))

    monkeypatch.setattr(targets, "get", broken)
    (section,) = [s for s in doctor.look() if s.title == "targets"]
    assert [(c.name, c.level) for c in section.checks] == [("one", "error"), ("SDK", "info")]


def test_it_needs_no_network_and_changes_nothing(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*arguments: object) -> None:
        raise AssertionError("the doctor goes to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    before = sorted(here.root.rglob("*"))
    doctor.look()
    assert sorted(here.root.rglob("*")) == before


def test_each_device_runs_a_small_network(bare: Machine) -> None:
    sections = {s.title: s.checks for s in doctor.look(place=bare.place)}
    tried = {c.name: c for c in sections["trial"]}
    assert "processor" in tried and all(c.found.startswith("runs, ") for c in tried.values())


def test_a_device_that_does_not_run_is_an_error_of_the_board(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: bytes) -> None:
        raise DeviceError("it broke", "mend it")

    monkeypatch.setattr("onchip.targets.cpu.CpuSession", broken)
    failure = doctor.failure(doctor.look(place=bare.place))
    assert failure is not None and failure.exit_code == 5 and "it broke" in failure.hint
