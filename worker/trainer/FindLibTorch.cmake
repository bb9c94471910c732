# LibTorch out of the PyPI wheel: imported targets LibTorch::c10, LibTorch::torch_cpu, LibTorch::cudart,
# LibTorch::cupti and LibTorch::LibTorch (what a CPU program links).
#
# The wheel's own find_package(Torch) is not used: it demands a CUDA toolkit and defines a dummy
# protobuf::libprotobuf. The wheel's include folder holds old protobuf and fmt headers, so only targets of
# worker/trainer may link these.
if(DEFINED ENV{XDG_CACHE_HOME})
  set(_libtorch_cache $ENV{XDG_CACHE_HOME})
else()
  set(_libtorch_cache $ENV{HOME}/.cache)
endif()
set(LIBTORCH_ROOT ${_libtorch_cache}/ham/libtorch-2.11.0-cpu
    CACHE PATH "Folder that deploy/get_libtorch.sh filled; holds torch/ and nvidia/")
unset(_libtorch_cache)

foreach(_file torch/include/torch/headeronly/version.h torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1
        nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13)
  if(NOT EXISTS ${LIBTORCH_ROOT}/${_file})
    message(FATAL_ERROR "LibTorch is missing: there is no ${LIBTORCH_ROOT}/${_file}. Run deploy/get_libtorch.sh, set "
                        "LIBTORCH_ROOT to the folder it filled, or configure with -DHAM_TRAINER=OFF.")
  endif()
endforeach()
file(STRINGS ${LIBTORCH_ROOT}/torch/include/torch/headeronly/version.h _line REGEX "^ +\"2\\.11\\.0")
if(NOT _line)
  message(FATAL_ERROR "LIBTORCH_ROOT (${LIBTORCH_ROOT}) holds another LibTorch than 2.11.0: run deploy/get_libtorch.sh.")
endif()
unset(_file)
unset(_line)

function(ham_import_library name path)
  add_library(LibTorch::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(LibTorch::${name} PROPERTIES IMPORTED_LOCATION ${LIBTORCH_ROOT}/${path})
endfunction()
ham_import_library(cudart nvidia/cu13/lib/libcudart.so.13)
ham_import_library(cupti nvidia/cu13/lib/libcupti.so.13)
ham_import_library(c10 torch/lib/libc10.so)
ham_import_library(torch_cpu torch/lib/libtorch_cpu.so)
# Needed by the wheel's libraries, found by their own relative RPATH; no concern of our link step.
target_link_options(LibTorch::c10 INTERFACE LINKER:--allow-shlib-undefined)
target_include_directories(LibTorch::c10 SYSTEM INTERFACE
  ${LIBTORCH_ROOT}/torch/include ${LIBTORCH_ROOT}/torch/include/torch/csrc/api/include)
target_link_libraries(LibTorch::torch_cpu INTERFACE LibTorch::c10)
add_library(LibTorch::LibTorch INTERFACE IMPORTED GLOBAL)
target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::torch_cpu)

# The wheel's libraries that a CPU program loads, in the wheel's own layout: their RPATHs are relative.
function(ham_install_libtorch destination)
  set(lib ${LIBTORCH_ROOT}/torch/lib)
  install(FILES ${lib}/libtorch_cpu.so ${lib}/libc10.so ${lib}/libgomp.so.1
          DESTINATION ${destination}/torch/lib)
  install(FILES ${LIBTORCH_ROOT}/nvidia/cu13/lib/libcudart.so.13 ${LIBTORCH_ROOT}/nvidia/cu13/lib/libcupti.so.13
          DESTINATION ${destination}/nvidia/cu13/lib)
endfunction()
