mpc_test(cost_tests
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/cost_graph_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/device_kinds_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/parallel_graph_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/profile_test.cpp
  USES mpc_cost nlohmann_json::nlohmann_json fmt::fmt)
