// Stands in for the resolver: it counts what it was told of.
#pragma once
namespace tflite {
template <unsigned int kCount>
class MicroMutableOpResolver {
 public:
  void AddAdd() { ++count; }
  void AddAveragePool2D() { ++count; }
  void AddConcatenation() { ++count; }
  void AddConv2D() { ++count; }
  void AddDecode() { ++count; }
  void AddDepthToSpace() { ++count; }
  void AddDepthwiseConv2D() { ++count; }
  void AddDequantize() { ++count; }
  void AddElu() { ++count; }
  void AddExpandDims() { ++count; }
  void AddFullyConnected() { ++count; }
  void AddLeakyRelu() { ++count; }
  void AddLogistic() { ++count; }
  void AddMaxPool2D() { ++count; }
  void AddMaximum() { ++count; }
  void AddMean() { ++count; }
  void AddMinimum() { ++count; }
  void AddMul() { ++count; }
  void AddPad() { ++count; }
  void AddQuantize() { ++count; }
  void AddReduceMax() { ++count; }
  void AddRelu() { ++count; }
  void AddRelu6() { ++count; }
  void AddReshape() { ++count; }
  void AddResizeBilinear() { ++count; }
  void AddResizeNearestNeighbor() { ++count; }
  void AddSoftmax() { ++count; }
  void AddSpaceToDepth() { ++count; }
  void AddSqueeze() { ++count; }
  void AddStridedSlice() { ++count; }
  void AddSub() { ++count; }
  void AddTanh() { ++count; }
  void AddTranspose() { ++count; }
  void AddTransposeConv() { ++count; }
  unsigned int count = 0;
};
}  // namespace tflite
