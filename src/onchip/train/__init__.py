"""Ultralytics behind two functions: `fit.fit` trains a detector, `export.export` makes its ONNX."""
