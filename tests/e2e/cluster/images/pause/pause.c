/* The first process of a pod, and of the node's own namespaces: ends its orphans' lives properly, and sleeps until it is
 * told to end. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal_number) {
    (void)signal_number;
    _exit(0);
}

static void bury(int signal_number) {
    (void)signal_number;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(void) {
    struct sigaction ends = {.sa_handler = end};
    struct sigaction buries = {.sa_handler = bury, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
    sigaction(SIGINT, &ends, NULL);
    sigaction(SIGTERM, &ends, NULL);
    sigaction(SIGCHLD, &buries, NULL);
    bury(SIGCHLD); /* those that ended before */
    for (;;) {
        pause();
    }
}
