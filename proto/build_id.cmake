# Writes OUT with the build id: twelve hex digits over the sources of proto/ and worker/ below ROOT.
cmake_minimum_required(VERSION 3.25)
file(GLOB_RECURSE files LIST_DIRECTORIES false RELATIVE ${ROOT}
  ${ROOT}/proto/*.proto ${ROOT}/proto/*.h ${ROOT}/proto/*.cc ${ROOT}/worker/*.h ${ROOT}/worker/*.cc)
list(SORT files)
set(all "")
foreach(file IN LISTS files)
  file(SHA256 ${ROOT}/${file} digest)
  string(APPEND all "${file} ${digest}\n")
endforeach()
string(SHA256 id "${all}")
string(SUBSTRING ${id} 0 12 id)
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define HAM_BUILD_ID \"@id@\"\n" @ONLY)
