# SPDX-License-Identifier: GPL-3.0-or-later
#
# A Debian package: `make deb`, which runs `cpack -G DEB` in a build of its own.
#
# Debian and Ubuntu have no torch that is new enough. So the package holds the wheel of the Python package, and `diffjscc-setup`
# unpacks it with pip, and what it needs, into a virtual environment in /var/lib. Removing the package removes the environment.

set(DIFFJSCC_INSTALL_ENVIRONMENT /var/lib/gr-diffjscc CACHE PATH "" FORCE)
set(DIFFJSCC_SETUP_COMMAND "sudo diffjscc-setup")
# Where Debian's own packages are; GNU Radio's macros would choose the folder of an interpreter under /usr/local.
set(GR_PYTHON_DIR lib/python3/dist-packages CACHE PATH "" FORCE)
set(DIFFJSCC_SHARE /usr/share/gr-diffjscc)
get_filename_component(DIFFJSCC_WHEEL_NAME ${DIFFJSCC_WHEEL} NAME)

foreach(script diffjscc-setup diffjscc)
  configure_file(${PROJECT_SOURCE_DIR}/packaging/debian/${script}.in ${PROJECT_BINARY_DIR}/packaging/${script} @ONLY)
endforeach()
foreach(script postinst prerm)
  configure_file(${PROJECT_SOURCE_DIR}/packaging/debian/${script}.in ${PROJECT_BINARY_DIR}/packaging/${script} @ONLY)
  file(CHMOD ${PROJECT_BINARY_DIR}/packaging/${script} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
       WORLD_READ WORLD_EXECUTE)
endforeach()
install(PROGRAMS ${PROJECT_BINARY_DIR}/packaging/diffjscc DESTINATION bin)
install(PROGRAMS ${PROJECT_BINARY_DIR}/packaging/diffjscc-setup DESTINATION sbin)
install(FILES ${DIFFJSCC_WHEEL} constraints.txt DESTINATION share/gr-diffjscc)
install(FILES packaging/debian/copyright DESTINATION share/doc/gr-diffjscc)
install(FILES README.md CHANGELOG.md DESTINATION share/doc/gr-diffjscc)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME gr-diffjscc)
set(CPACK_PACKAGE_VERSION ${VERSION_MAJOR}.${VERSION_API}.${VERSION_ABI})
set(CPACK_PACKAGE_CONTACT "gr-diffjscc maintainers <maintainers@gr-diffjscc.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "images over radio as analog symbols, for GNU Radio")
set(CPACK_PACKAGE_DESCRIPTION
    "GNU Radio blocks for diffusion-aided joint source-channel coding of images:
 an image is sent as analog symbols and received degraded but never lost, at
 any signal-to-noise ratio. After the installation run 'sudo diffjscc-setup',
 which installs the Python packages that Debian does not have.")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION hamradio)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "gnuradio (>= 3.10), python3, python3-venv")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "xterm")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${PROJECT_BINARY_DIR}/packaging/postinst ${PROJECT_BINARY_DIR}/packaging/prerm
    ${PROJECT_SOURCE_DIR}/packaging/debian/triggers)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/packaging/debian/no_bytecode.cmake)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
