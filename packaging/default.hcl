# Configuration of hostagent, as installed: it observes. It reports to Consul what it finds, says what it would do, and
# owns no firewall rule. hostagent.hcl(5) names every key; "hostagent config validate" says what is wrong with this file.
#
# Guarding closes the sidecar range to the network but for the ports of registered sidecars. "hostagent firewall plan"
# tells what that would cut off on this host now. This line turns it on:
#
#   sed -i 's/^mode = .*/mode = "guard"/' /etc/hostagent.d/hostagent.hcl && systemctl reload hostagent
#
# Back to observing, which takes the rules away again: the same line with "observe".

mode = "observe"

# The ACL token, where Consul asks for one, in a file that only root can read. "hostagent acl-policy" prints the policy
# that it needs. A token written there counts at once.
#
# consul {
#   token_file = "/etc/hostagent.d/token"
# }
