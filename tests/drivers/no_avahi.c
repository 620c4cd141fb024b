/* SPDX-License-Identifier: GPL-3.0-or-later */

/* Stands in for libavahi-client (LD_PRELOAD): SoapySDRServer ends where no Avahi daemon runs, which it needs only to
 * be found by name. A client that knows its address does not ask for it. */

#include <unistd.h>

static char something;

void* avahi_client_new(void) { return &something; }
void avahi_client_free(void) {}
int avahi_client_get_state(void) { return 2; }
int avahi_client_errno(void) { return 0; }
const char* avahi_client_get_version_string(void) { return "none"; }
const char* avahi_client_get_host_name(void) { return "host"; }
const char* avahi_client_get_host_name_fqdn(void) { return "host.local"; }
const char* avahi_client_get_domain_name(void) { return "local"; }

void* avahi_entry_group_new(void) { return &something; }
int avahi_entry_group_add_service_strlst(void) { return 0; }
int avahi_entry_group_commit(void) { return 0; }
int avahi_entry_group_free(void) { return 0; }
void* avahi_entry_group_get_client(void) { return &something; }

void* avahi_service_browser_new(void) { return &something; }
int avahi_service_browser_free(void) { return 0; }
void* avahi_service_browser_get_client(void) { return &something; }

int avahi_simple_poll_loop(void)
{
    for (;;)
        pause();
}

int avahi_simple_poll_iterate(void)
{
    usleep(100000);
    return 0;
}
