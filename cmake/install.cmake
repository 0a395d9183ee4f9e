# `cmake --install` and the Debian package (tools/deb): the program and what goes with it.
install(TARGETS plumeria)
file(GLOB manual_pages CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/man/*.1)
install(FILES ${manual_pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
file(GLOB manual_pages CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/man/*.8)
install(FILES ${manual_pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
install(FILES share/plumeria.bash RENAME plumeria
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES share/plumeria-serve@.service DESTINATION lib/systemd/system)
# One script with two names: what mount(8) and umount(8) look for, if it is in /sbin.
foreach(helper mount.fuse.plumeria umount.fuse.plumeria)
  install(PROGRAMS share/mount.fuse.plumeria RENAME ${helper} DESTINATION ${CMAKE_INSTALL_SBINDIR})
endforeach()
install(FILES README.md docs/operations.md share/example.conf DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE RENAME copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME plumeria)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_VENDOR "Plumeria")
set(CPACK_PACKAGE_CONTACT "Plumeria maintainers <maintainers@plumeria.example>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "POSIX file system that several machines mount at once")
set(CPACK_PACKAGE_DESCRIPTION
"Plumeria behaves, on all machines that mount it, like one local disk: what one
writes the others see at once, and when a machine dies the others go on with
everything that was fsynced. There is no metadata server: every mount runs the
whole file system over one shared virtual disk, which is a directory of one of
the machines. It uses FUSE of the kernel and no library of it.")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/package)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "mount")
# Without a postrm, so that `dpkg -r` leaves nothing.
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/share/debian/postinst)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "bash-completion")
set(CMAKE_SKIP_PACKAGE_ALL_DEPENDENCY ON)
include(CPack)
