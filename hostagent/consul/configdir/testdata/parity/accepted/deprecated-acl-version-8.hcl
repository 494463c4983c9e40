acl_enforce_version_8 = true
service {
  name = "web"
  port = 8080
}
