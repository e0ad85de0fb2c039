// Stands in for the schema: a file must be aligned and have its identifier.
#pragma once
#include <cstdint>
#include <cstring>
namespace tflite {
struct Model {};
inline const Model* GetModel(const void* content) {
  static Model model;
  const bool is_one = std::memcmp(static_cast<const char*>(content) + 4, "TFL3", 4) == 0;
  return is_one && reinterpret_cast<uintptr_t>(content) % 16 == 0 ? &model : nullptr;
}
}  // namespace tflite
