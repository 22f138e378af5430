/* Connects as the test asks and prints the server's greeting and the peer. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what, int err)
{
	printf("%s: %s\n", what, strerror(err));
	return 1;
}

/* connect [block|nonblock] ADDRESS PORT: an address with a colon is IPv6 */
int main(int argc, char **argv)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in a4 = { .sin_family = AF_INET };
	struct sockaddr *a = (struct sockaddr *)&a4;
	socklen_t len = sizeof(a4);
	char greeting[128], peer[INET6_ADDRSTRLEN];
	int fd, err = 0, n;

	if (argc != 4)
		return 2;
	a4.sin_port = a6.sin6_port = htons(atoi(argv[3]));
	if (strchr(argv[2], ':')) {
		inet_pton(AF_INET6, argv[2], &a6.sin6_addr);
		a = (struct sockaddr *)&a6;
		len = sizeof(a6);
	} else {
		inet_pton(AF_INET, argv[2], &a4.sin_addr);
	}
	fd = socket(a->sa_family, SOCK_STREAM, 0);
	if (!strcmp(argv[1], "nonblock")) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		fcntl(fd, F_SETFL, O_NONBLOCK);
		if (connect(fd, a, len) && errno != EINPROGRESS)
			return fail("connect", errno);
		poll(&p, 1, 10000);
		len = sizeof(err);
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err)
			return fail("connect", err);
		fcntl(fd, F_SETFL, 0);
	} else if (connect(fd, a, len)) {
		return fail("connect", errno);
	}
	for (n = 0; n < (int)sizeof(greeting) - 1; n++)
		if (read(fd, greeting + n, 1) != 1 || greeting[n] == '\n')
			break;
	greeting[n] = 0;
	len = sizeof(a6);
	getpeername(fd, (struct sockaddr *)&a6, &len);
	if (a6.sin6_family == AF_INET6)
		inet_ntop(AF_INET6, &a6.sin6_addr, peer, sizeof(peer));
	else
		inet_ntop(AF_INET, &((struct sockaddr_in *)&a6)->sin_addr, peer, sizeof(peer));
	printf("%s %s %d\n", greeting, peer, ntohs(a6.sin6_port));
	return 0;
}
