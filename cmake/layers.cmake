# One library per folder; what it links is what it may include (tests/lint checks the includes).

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

# add_unit_tests(LAYER SOURCES file… [LINKS library…]): one GoogleTest program `LAYER_test`, run by ctest.
function(add_unit_tests layer)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${layer}_test ${ARG_SOURCES})
  target_link_libraries(${layer}_test PRIVATE ${layer} ${ARG_LINKS} GTest::gmock GTest::gtest_main)
  add_test(NAME unit.${layer} COMMAND ${layer}_test)
  set_tests_properties(unit.${layer} PROPERTIES TIMEOUT 300 LABELS unit)
endfunction()
