// How a process that computes keeps memory.
#pragma once

#include <malloc.h>

namespace ham::trainer {

// Tensors are freed and allocated anew all the time: memory that went back to the system in between would have to be
// mapped and cleared again. Of small networks that is a fifth of the time. Once, before the first allocation.
inline void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

}  // namespace ham::trainer
