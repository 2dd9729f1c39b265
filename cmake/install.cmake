# What `cmake --install` puts into a prefix: the program, the library with its public headers, and a package that
# find_package(mpc) finds. The library is static and made of one archive per folder; all of them are exported.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(mpc_archives mpc_api mpc_base mpc_cost mpc_cpu mpc_executor mpc_ir mpc_onnx mpc_ops mpc_passes mpc_plan mpc_reference)
if(TARGET mpc_dnnl)
  list(APPEND mpc_archives mpc_dnnl)
endif()
set(mpc_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mpc)

target_include_directories(mpc_api PUBLIC $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(mpc_api PROPERTIES EXPORT_NAME mpc)
install(TARGETS ${mpc_archives} EXPORT mpcTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/mpc)
install(TARGETS mpc RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(MPC_HAS_CUDA)
  install(TARGETS mpc_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/mpc DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT mpcTargets NAMESPACE mpc:: DESTINATION ${mpc_config_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/mpcConfig.cmake.in ${PROJECT_BINARY_DIR}/mpcConfig.cmake
                              INSTALL_DESTINATION ${mpc_config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mpcConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mpcConfig.cmake ${PROJECT_BINARY_DIR}/mpcConfigVersion.cmake DESTINATION ${mpc_config_dir})
