// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func aclPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "acl-policy",
		Short: "Print the smallest ACL policy that hostagent's token needs",
		Long: `Prints the rules that hostagent's Consul token needs with this configuration on this host, and no more, each
with what it is for. It needs no token and sends none; it changes nothing, here or in Consul. Rules name the host's
node: each host has a policy of its own.

With --audit it prints those for the token of a person who runs hostagent audit instead: what reading shows of the
checklist, and in comments the two rights to write that show the rest. With --fleet it prints those for the token of a
person who runs hostagent fleet: they name no node, and one policy is for all hosts.

The node's name is asked from the local agent, which tells it to anybody; where none answers it is this host's own.

Exit status: 0 printed, 2 not.`,
		Example: `  hostagent acl-policy | consul acl policy create -name hostagent -rules -
  hostagent acl-policy --node db-1   for another host with this configuration
  hostagent acl-policy --audit | consul acl policy create -name hostagent-audit -rules -
  hostagent acl-policy --fleet | consul acl policy create -name hostagent-fleet -rules -
  hostagent acl-policy | diff - policy.hcl`,
		Args: noArguments,
	}
	keys := consulKeys()
	delete(keys, tokenFileFlag)
	s := addSettings(cmd, keys)
	node := cmd.Flags().String("node", "", "`name` of the node, as its agent spells it")
	auditor := cmd.Flags().Bool("audit", false, "print the policy for the token of a person who runs hostagent audit")
	fleet := cmd.Flags().Bool("fleet", false, "print the policy for the token of a person who runs hostagent fleet")
	completeFlag(cmd, "node") // with nothing: no file is meant
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *fleet && *auditor:
			return errors.New("cannot print a policy for --audit and --fleet: they are two policies; print one and then the other")
		case *fleet && cmd.Flags().Changed("node"):
			return errors.New("cannot print a policy for --fleet of one node: its rules are about all of them; leave out --node")
		}
		c, err := s.load()
		if err != nil {
			return err
		}
		needs := needsOf(c)
		needs.Audit, needs.Fleet = *auditor, *fleet
		switch {
		case needs.Fleet: // its rules name no node
		case cmd.Flags().Changed("node"):
			needs.Node, needs.Origin = *node, "The node's name is the one of --node."
		default:
			if needs.Node, needs.Origin, err = nodeName(cmd.Context(), c); err != nil {
				return err
			}
		}
		text, err := needs.Policy()
		if err != nil {
			return err
		}
		if strings.HasPrefix(needs.Origin, guessed) { // nobody reads the comments of what goes on to consul
			fmt.Fprintf(cmd.ErrOrStderr(), "hostagent: the policy is for node %q, which is a guess, because the agent did not tell; use --node if it is wrong\n", needs.Node)
		}
		return output(cmd, text)
	}
	return cmd
}

// needsOf tells for what hostagent uses its token with this configuration.
func needsOf(c *config.Config) consul.Needs {
	p := policy(c)
	needs := consul.Needs{
		Members:   p.AllowCluster || p.ExposedPathsCluster,
		Namespace: c.Consul.Namespace, Partition: c.Consul.Partition,
		KVPrefix: c.KVPrefix,
	}
	if c.Report.Enabled {
		needs.Service, needs.OnServices = c.Report.ServiceName, c.Report.On == config.ReportOnService
	}
	return needs
}

// guessed begins the sentence on a name that nobody told.
const guessed = "The node's name is taken to be the host's"

// nodeName returns what the node is called, and a sentence that says who told it. The agent is asked as nobody: the token
// that the policy is for may not exist yet.
func nodeName(ctx context.Context, c *config.Config) (name, origin string, err error) {
	options, err := consulOptions(c)
	if err != nil {
		return "", "", err
	}
	options.Token, options.TokenFile = "", ""
	client, err := consul.New(options)
	if err != nil {
		return "", "", err
	}
	name, err = client.NodeName(ctx)
	if err == nil {
		return name, "The node's name was told by the agent at " + client.Address() + ".", nil
	}
	own, failed := os.Hostname()
	if failed != nil {
		return "", "", fmt.Errorf("cannot tell the node's name: %w; and %w; name it with --node", err, failed)
	}
	// Without node_name an agent takes the host's name like this (Consul 1.21).
	return strings.TrimSpace(own), fmt.Sprintf(guessed+", as an agent without node_name does; use --node if it has another. "+
		"The agent did not tell: %s", catalog.CleanTo(err.Error(), 300)), nil
}
