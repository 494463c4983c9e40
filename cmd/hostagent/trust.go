// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"math"
	"os/user"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// usualConsulUser is whom packages of Consul run the agent as.
const usualConsulUser = "consul"

// trust says to whom anything is sent at the agent's address.
func trust(c *config.Config) (*consul.Trust, error) {
	users, err := consulUsers(c.Consul.User)
	if err != nil {
		return nil, err
	}
	return &consul.Trust{
		Users: users, AllowRemote: c.Consul.AllowRemoteAgent, IsLocal: sockets.IsLocal, PeerUID: sockets.PeerUID,
	}, nil
}

// consulUsers returns who tells the users that the agent may run as, by a name, a number, or "" for the usual one. That
// one is looked up anew each time: Consul may be installed while hostagent runs.
func consulUsers(name string) (func() []uint32, error) {
	if name == "" {
		return func() []uint32 {
			if uid, err := userID(usualConsulUser); err == nil {
				return []uint32{uid}
			}
			return nil
		}, nil
	}
	uid, err := userID(name)
	if err != nil {
		return nil, err
	}
	return func() []uint32 { return []uint32{uid} }, nil
}

// userID reads a number, or looks a name up.
func userID(name string) (uint32, error) {
	number := name
	if _, err := strconv.ParseUint(name, 10, 64); err != nil {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, fmt.Errorf("cannot use consul { user = %q } (--consul-user): /etc/passwd has no such user; "+
				"write the number of one that a directory service knows", name)
		}
		number = u.Uid
	}
	uid, err := strconv.ParseUint(number, 10, 32)
	if err != nil || uid == math.MaxUint32 { // which stands for none
		return 0, fmt.Errorf("cannot use consul { user = %q } (--consul-user): %s is no number of a user", name, number)
	}
	return uint32(uid), nil
}
