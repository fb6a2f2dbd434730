"""BitNet b1.58 checkpoints in safetensors, as ONNX: `baker.model.bitnet.checkpoint.open_checkpoint`."""
