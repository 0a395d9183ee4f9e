# One library per folder; what it links is what it may include (tests/lint checks the includes).

# Which tests this build folder has. The product's own ("") has all of them but the planted faults;
# asan those of code that needs no kernel; tsan those of folders with threads; planted its own.
set(PLUMERIA_VARIANT "" CACHE STRING "Prefix of the names of tests: empty, asan, tsan or planted")
set(PLUMERIA_FOLDERS_WITH_THREADS os bench disk diskd fuse cli)

# Everything that the tests of this build folder run.
add_custom_target(test_programs)

# add_layer(NAME [SOURCES file…] [LINKS library…]): the static library `NAME` of this folder.
function(add_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC plumeria_options ${ARG_LINKS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE plumeria_options ${ARG_LINKS})
  endif()
endfunction()

# add_program_test(NAME name COMMAND … [VARIANTS variant…] [LABELS …] [TIMEOUT s] [SERIAL]
#                  [COST n] [BUILDS target…]): a test that ctest runs in the variants named
# (release: the product's own). SERIAL: nothing else runs beside it.
function(add_program_test)
  cmake_parse_arguments(ARG "SERIAL" "NAME;TIMEOUT;COST" "COMMAND;VARIANTS;LABELS;BUILDS" ${ARGN})
  set(variant ${PLUMERIA_VARIANT})
  if(NOT variant)
    set(variant release)
  endif()
  if(NOT ARG_VARIANTS)
    set(ARG_VARIANTS release)
  endif()
  if(NOT variant IN_LIST ARG_VARIANTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(name ${ARG_NAME})
  if(PLUMERIA_VARIANT)
    set(name ${PLUMERIA_VARIANT}.${ARG_NAME})
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  if(ARG_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
  # What takes longest begins first, so that no processor is idle at the end.
  if(ARG_COST)
    set_tests_properties(${name} PROPERTIES COST ${ARG_COST})
  endif()
  if(ARG_BUILDS)
    add_dependencies(test_programs ${ARG_BUILDS})
  endif()
endfunction()

# add_unit_tests(LAYER SOURCES file… [LINKS library…]): one GoogleTest program `LAYER_test`, run by
# ctest.
function(add_unit_tests layer)
  cmake_parse_arguments(ARG "" "COST" "SOURCES;LINKS" ${ARGN})
  add_executable(${layer}_test ${ARG_SOURCES})
  target_link_libraries(${layer}_test PRIVATE ${layer} ${ARG_LINKS} GTest::gmock GTest::gtest_main)
  set(variants release asan)
  if(layer IN_LIST PLUMERIA_FOLDERS_WITH_THREADS)
    list(APPEND variants tsan)
  endif()
  add_program_test(NAME unit.${layer} COMMAND ${layer}_test VARIANTS ${variants} LABELS unit
    TIMEOUT 1200 COST "${ARG_COST}" BUILDS ${layer}_test)
endfunction()
