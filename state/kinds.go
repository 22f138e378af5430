package state

// Kind returns KindServerSeen.
func (ServerSeen) Kind() Kind { return KindServerSeen }

// ProxyID returns "".
func (ServerSeen) ProxyID() string { return "" }

// Kind returns KindServerChanged.
func (ServerChanged) Kind() Kind { return KindServerChanged }

// ProxyID returns "".
func (ServerChanged) ProxyID() string { return "" }

// Kind returns KindServerGone.
func (ServerGone) Kind() Kind { return KindServerGone }

// ProxyID returns "".
func (ServerGone) ProxyID() string { return "" }

// Kind returns KindServerDrained.
func (ServerDrained) Kind() Kind { return KindServerDrained }

// ProxyID returns "".
func (ServerDrained) ProxyID() string { return "" }

// Kind returns KindServerUndrained.
func (ServerUndrained) Kind() Kind { return KindServerUndrained }

// ProxyID returns "".
func (ServerUndrained) ProxyID() string { return "" }

// Kind returns KindProxyRegistered.
func (ProxyRegistered) Kind() Kind { return KindProxyRegistered }

// ProxyID returns the registered proxy's id.
func (b ProxyRegistered) ProxyID() string { return b.Proxy.ID }

// Kind returns KindProxyChanged.
func (ProxyChanged) Kind() Kind { return KindProxyChanged }

// ProxyID returns the changed proxy's id.
func (b ProxyChanged) ProxyID() string { return b.ID }

// Kind returns KindProxyDeregistered.
func (ProxyDeregistered) Kind() Kind { return KindProxyDeregistered }

// ProxyID returns the id of the proxy that left.
func (b ProxyDeregistered) ProxyID() string { return b.ID }

// Kind returns KindPlaced.
func (Placed) Kind() Kind { return KindPlaced }

// ProxyID returns the placed proxy's id.
func (b Placed) ProxyID() string { return b.ID }

// Kind returns KindLoggedIn.
func (LoggedIn) Kind() Kind { return KindLoggedIn }

// ProxyID returns the id of the proxy that the token is for.
func (b LoggedIn) ProxyID() string { return b.ID }

// Kind returns KindLoggedOut.
func (LoggedOut) Kind() Kind { return KindLoggedOut }

// ProxyID returns the id of the proxy that the token was for.
func (b LoggedOut) ProxyID() string { return b.ID }

// Kind returns KindCredentialChanged.
func (CredentialChanged) Kind() Kind { return KindCredentialChanged }

// ProxyID returns the id of the proxy whose credential it is.
func (b CredentialChanged) ProxyID() string { return b.ID }
