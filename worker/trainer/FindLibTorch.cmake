# LibTorch out of the PyPI wheel: imported targets LibTorch::c10, LibTorch::torch_cpu, LibTorch::cudart,
# LibTorch::cupti and LibTorch::LibTorch (what a CPU program links). With HAM_CUDA also LibTorch::c10_cuda, LibTorch::nccl
# and LibTorch::CUDA (what a CUDA program links beside those). HAM_HAS_CUDA says whether these are there.
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
set(LIBTORCH_CUDA_ROOT ${_libtorch_cache}/ham/libtorch-2.11.0-cuda
    CACHE PATH "Folder that deploy/get_libtorch.sh --cuda filled")
unset(_libtorch_cache)
set(HAM_CUDA AUTO CACHE STRING "Build ham-trainer-cuda: ON, OFF, or AUTO, where LIBTORCH_CUDA_ROOT holds its libraries")

# What the programs load, and what an installation therefore holds; that of CUDA stands on the other's.
set(LIBTORCH_FILES torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1 nvidia/cu13/lib/libcudart.so.13
    nvidia/cu13/lib/libcupti.so.13)
set(LIBTORCH_CUDA_FILES
    torch/lib/libtorch_cuda.so torch/lib/libc10_cuda.so torch/lib/libtorch_nvshmem.so torch/lib/libtorch_cuda_linalg.so
    torch/lib/libcaffe2_nvrtc.so nvidia/nccl/lib/libnccl.so.2 nvidia/cusparselt/lib/libcusparseLt.so.0
    nvidia/nvshmem/lib/libnvshmem_host.so.3)
foreach(_name cublas.so.13 cublasLt.so.13 cufft.so.12 cufile.so.0 curand.so.10 cusolver.so.12 cusparse.so.12 nvJitLink.so.13
        nvrtc.so.13 nvrtc-builtins.so.13.0)
  list(APPEND LIBTORCH_CUDA_FILES nvidia/cu13/lib/lib${_name})
endforeach()
foreach(_name "" _adv _cnn _engines_precompiled _engines_runtime_compiled _graph _heuristic _ops)
  list(APPEND LIBTORCH_CUDA_FILES nvidia/cudnn/lib/libcudnn${_name}.so.9)
endforeach()
unset(_name)

foreach(_file torch/include/torch/headeronly/version.h ${LIBTORCH_FILES})
  if(NOT EXISTS ${LIBTORCH_ROOT}/${_file})
    message(FATAL_ERROR "LibTorch is missing: there is no ${LIBTORCH_ROOT}/${_file}. Run deploy/get_libtorch.sh, set "
                        "LIBTORCH_ROOT to the folder it filled, or configure with -DHAM_TRAINER=OFF.")
  endif()
endforeach()
function(ham_check_libtorch_version root script)
  file(STRINGS ${root}/torch/include/torch/headeronly/version.h line REGEX "^ +\"2\\.11\\.0")
  if(NOT line)
    message(FATAL_ERROR "${root} holds another LibTorch than 2.11.0: run ${script}.")
  endif()
endfunction()
ham_check_libtorch_version(${LIBTORCH_ROOT} deploy/get_libtorch.sh)

set(HAM_HAS_CUDA OFF)
if(HAM_CUDA STREQUAL AUTO AND (HAM_SANITIZE OR HAM_FUZZ))
  message(STATUS "No ham-trainer-cuda: HAM_SANITIZE and HAM_FUZZ are for the CPU program, unless HAM_CUDA is ON")
elseif(HAM_CUDA)
  set(_missing "")
  foreach(_file torch/include/torch/headeronly/version.h nvidia/nccl/include/nccl.h
          nvidia/cu13/include/crt/host_defines.h nvidia/cu13/bin/nvcc nvidia/cu13/nvvm/bin/cicc ${LIBTORCH_FILES}
          ${LIBTORCH_CUDA_FILES})
    if(NOT _missing AND NOT EXISTS ${LIBTORCH_CUDA_ROOT}/${_file})
      set(_missing ${LIBTORCH_CUDA_ROOT}/${_file})
    endif()
  endforeach()
  if(NOT _missing)
    set(HAM_HAS_CUDA ON)
    ham_check_libtorch_version(${LIBTORCH_CUDA_ROOT} "deploy/get_libtorch.sh --cuda")
  elseif(HAM_CUDA STREQUAL AUTO)
    message(STATUS "No ham-trainer-cuda: there is no ${_missing} (deploy/get_libtorch.sh --cuda fetches it)")
  else()
    message(FATAL_ERROR "HAM_CUDA is ${HAM_CUDA}, but there is no ${_missing}. Run deploy/get_libtorch.sh --cuda, set "
                        "LIBTORCH_CUDA_ROOT to the folder it filled, or configure with -DHAM_CUDA=OFF.")
  endif()
  unset(_missing)
endif()
unset(_file)

function(ham_import_library name path)
  add_library(LibTorch::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(LibTorch::${name} PROPERTIES IMPORTED_LOCATION ${path})
endfunction()
# torch_cpu and what it stands on, out of the folder `root`; the targets' names end in `suffix`.
function(ham_import_cpu_libraries root suffix)
  ham_import_library(cudart${suffix} ${root}/nvidia/cu13/lib/libcudart.so.13)
  ham_import_library(c10${suffix} ${root}/torch/lib/libc10.so)
  ham_import_library(torch_cpu${suffix} ${root}/torch/lib/libtorch_cpu.so)
  # Needed by the wheel's libraries, found by their own relative RPATH; no concern of our link step.
  target_link_options(LibTorch::c10${suffix} INTERFACE LINKER:--allow-shlib-undefined)
  target_include_directories(LibTorch::c10${suffix} SYSTEM INTERFACE
    ${LIBTORCH_ROOT}/torch/include ${LIBTORCH_ROOT}/torch/include/torch/csrc/api/include)
  target_link_libraries(LibTorch::torch_cpu${suffix} INTERFACE LibTorch::c10${suffix})
endfunction()
ham_import_cpu_libraries(${LIBTORCH_ROOT} "")
ham_import_library(cupti ${LIBTORCH_ROOT}/nvidia/cu13/lib/libcupti.so.13)

add_library(LibTorch::LibTorch INTERFACE IMPORTED GLOBAL)
if(NOT HAM_HAS_CUDA)
  target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::torch_cpu)
else()
  # Both folders hold the same wheel of torch, so libraries of ours are compiled once; a program takes all of it from one
  # folder: that of CUDA if it has the property HAM_CUDA_PROGRAM.
  ham_import_cpu_libraries(${LIBTORCH_CUDA_ROOT} _of_cuda)
  target_link_libraries(LibTorch::LibTorch INTERFACE
    LibTorch::torch_cpu$<$<BOOL:$<TARGET_PROPERTY:HAM_CUDA_PROGRAM>>:_of_cuda>)
  ham_import_library(c10_cuda ${LIBTORCH_CUDA_ROOT}/torch/lib/libc10_cuda.so)
  ham_import_library(torch_cuda ${LIBTORCH_CUDA_ROOT}/torch/lib/libtorch_cuda.so)
  ham_import_library(nccl ${LIBTORCH_CUDA_ROOT}/nvidia/nccl/lib/libnccl.so.2)
  target_include_directories(LibTorch::c10_cuda SYSTEM INTERFACE ${LIBTORCH_CUDA_ROOT}/nvidia/cu13/include)
  target_link_libraries(LibTorch::c10_cuda INTERFACE LibTorch::c10_of_cuda LibTorch::cudart_of_cuda)
  target_include_directories(LibTorch::nccl SYSTEM INTERFACE ${LIBTORCH_CUDA_ROOT}/nvidia/nccl/include)
  # Its kernels register themselves: nothing of it is called by name.
  target_link_options(LibTorch::torch_cuda INTERFACE LINKER:--no-as-needed)
  target_link_libraries(LibTorch::torch_cuda INTERFACE LibTorch::torch_cpu_of_cuda LibTorch::c10_cuda)
  add_library(LibTorch::CUDA INTERFACE IMPORTED GLOBAL)
  target_link_libraries(LibTorch::CUDA INTERFACE LibTorch::torch_cuda LibTorch::nccl)
endif()

# ham_install_libtorch(COMPONENT DESTINATION ROOT DOCUMENTS FILE...): in the wheel's own layout, because its RPATHs are
# relative; with the licences of the wheels, in DOCUMENTS.
function(ham_install_libtorch component destination root documents)
  foreach(file IN LISTS ARGN)
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${root}/${file} DESTINATION ${destination}/${folder} COMPONENT ${component})
  endforeach()
  file(GLOB licences RELATIVE ${root} ${root}/*.dist-info/licenses/* ${root}/nvidia/*/LICENSE.txt)
  if(NOT licences MATCHES "torch-2\\.11\\.0\\.dist-info")
    message(FATAL_ERROR "${root} holds no licence of PyTorch, which has to travel with it: remove that folder and run "
                        "deploy/get_libtorch.sh again.")
  endif()
  foreach(file IN LISTS licences)
    string(REGEX REPLACE "^nvidia/|\\.dist-info/.*|/LICENSE\\.txt$" "" wheel ${file})
    install(FILES ${root}/${file} DESTINATION ${documents}/licences/${wheel} COMPONENT ${component})
  endforeach()
endfunction()
