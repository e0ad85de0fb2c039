// Stands in for the interpreter: each input must have come, the third output is largest.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor {
  union { char* raw; float* f; int8_t* int8; uint8_t* uint8; int32_t* i32; } data;
};
namespace tflite {
class MicroInterpreter {
 public:
  template <unsigned int kCount>
  MicroInterpreter(const Model* model, const MicroMutableOpResolver<kCount>& resolver,
                   uint8_t* arena, size_t arena_bytes)
      : is_whole_(model != nullptr && resolver.count == kCount && arena_bytes >= 1024 &&
                  reinterpret_cast<uintptr_t>(arena) % 16 == 0) {
    tensor_.data.raw = buffer_;
  }
  TfLiteStatus AllocateTensors() { return is_whole_ ? kTfLiteOk : kTfLiteError; }
  TfLiteTensor* input(size_t) { return &tensor_; }
  TfLiteStatus Invoke() {
    std::memset(buffer_, 0, sizeof(buffer_));
    tensor_.data.STUB_MEMBER[3] = 1;
    return kTfLiteOk;
  }
  TfLiteTensor* output(size_t) { return &tensor_; }

 private:
  bool is_whole_;
  TfLiteTensor tensor_;
  alignas(16) char buffer_[1 << 16];
};
}  // namespace tflite
