/*
 * The one header that bindgen reads. It names the Xen headers that are bound; which of their functions are
 * is listed in build.rs.
 *
 * The API version is pinned, so that a newer release offers the functions of this one. 0x041400 is the
 * newest that 4.14 and everything later accepts.
 */
#define LIBXL_API_VERSION 0x041400

#include <libxl.h>
#include <libxl_event.h>
#include <libxl_utils.h>
#include <libxl_uuid.h>
#include <xentoollog.h>
#include <xenstore.h>
