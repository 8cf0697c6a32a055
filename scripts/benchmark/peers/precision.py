"""Let OpenVINO compute in fp32 if the environment variable PRECISION says so. Otherwise, OpenVINO chooses.

On a CPU with AMX, OpenVINO chooses bf16. Ultralytics has no setting for it.
"""

import os

if os.environ.get("PRECISION") == "fp32":
    import openvino

    compile_model = openvino.Core.compile_model

    def compile_in_fp32(core, model, device_name=None, config=None, **options):
        config = (config or {}) | {"INFERENCE_PRECISION_HINT": "f32"}
        return compile_model(core, model, device_name, config, **options)

    openvino.Core.compile_model = compile_in_fp32
