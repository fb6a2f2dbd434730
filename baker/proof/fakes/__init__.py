"""Finds candidates that only look like optimizations, whatever their errors measure.

A network replaced by a constant meets a top-1 budget where one class is frequent; int8 weights that are dequantized
before a float layer meet any budget and save nothing. Each sign is a `baker.proof.verdict.Finding`:

    kind                  sign                                                                              module
    dropped-output        an output or input of the reference is gone                                       structure
    constant-output       an output does not move where the reference's does, or depends on no input        behaviour
    hidden-change         what a saturated Softmax or Sigmoid hides is another function                     hidden
    copied-input          an output is an input, or a part of one                                           behaviour
    ignored-input         an input that mattered no longer does                                             behaviour
    unsupported-size      a size that the reference runs at fails, or gives another result                  behaviour
    same-for-all          the samples of a batch all get the same result                                    behaviour
    swapped-classes       classes of an output are in each other's place                                    columns
    systematic-error      an error inside the tolerance that is no rounding: a factor or an offset          behaviour
    level-change          ONNX Runtime's optimizer changes the result, or can't run the model               levels
    undeclared-precision  float16, bfloat16, 8-bit floats or quantization where nobody asked for a loss     precision
    narrowed-weights      float32 weights that hold values of a narrower type                               precision
    float-weights         weights on an integer grid, or behind a QuantizeLinear, that are float on disk    storage
    stored-twice          integer weights beside a float copy of the same weights                           storage
    empty-claim           the metadata speaks of quantization, and nothing is quantized                     storage
    float-kernels         layers with integer or ternary weights that run in float                          kernels
"""
