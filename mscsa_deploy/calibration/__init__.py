"""From a float ONNX file and pictures to an INT8 file that one runtime runs well."""
