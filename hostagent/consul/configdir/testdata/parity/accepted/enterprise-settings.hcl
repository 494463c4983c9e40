license_path = "/etc/consul/license.hclic"
audit {
  enabled = true
  sink "files" {
    type   = "file"
    format = "json"
    path   = "/var/log/consul/audit.json"
  }
}
acl {
  tokens {
    managed_service_provider {
      accessor_id = "a"
      secret_id   = "b"
    }
  }
}
service {
  name = "web"
  port = 8080
}
