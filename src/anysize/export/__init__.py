"""Export: a model as one ONNX or pt2 file with all that its use needs, checked by running it; and what runs such files.

exported = export_onnx(model, "model.onnx", Description("classification", preprocessing))
runtime = open_runtime("model.onnx")            # ONNX Runtime
logits = runtime(images)
"""
