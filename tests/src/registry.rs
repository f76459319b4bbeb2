//! Pushes images over the registry's own HTTP interface, so that the engine has never seen them and must really pull.

use anyhow::{Context as _, Result, ensure};
use landfall_schema::ids::Digest;
use landfall_schema::promotion::PinnedImage;
use reqwest::{Client, RequestBuilder, StatusCode, header};
use serde_json::json;

use crate::image::{AppImage, base_layer};
use crate::lab::{Lab, variable};

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

#[derive(Debug, Clone)]
pub struct Registry {
    /// `address:port`, as in an image's name.
    pub address: String,
    login: Option<(String, String)>,
    client: Client,
    base_layer: Vec<u8>,
}

/// An image that is in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// With the registry, without tag.
    pub repository: String,
    pub tag: String,
    pub digest: Digest,
}

impl PushedImage {
    /// As a compose file names it.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    pub fn pinned(&self) -> PinnedImage {
        PinnedImage { repository: self.repository.clone(), digest: self.digest.clone(), tag: Some(self.tag.clone()) }
    }

    /// The same image by way of another address, e.g. a proxy's.
    #[must_use]
    pub fn by_way_of(&self, address: &str) -> Self {
        let path = self.repository.split_once('/').map_or("", |(_, path)| path);
        Self { repository: format!("{address}/{path}"), ..self.clone() }
    }
}

impl Registry {
    /// # Errors
    /// When the HTTP client or busybox is not to be had.
    pub fn open(lab: &Lab) -> Result<Self> {
        Self::new(lab, lab.registry.clone(), None)
    }

    /// The same registry under the address by which the hosts of a fleet pull.
    ///
    /// # Errors
    /// As [`Self::open`], and when the laboratory has none.
    pub fn gateway(lab: &Lab) -> Result<Self> {
        Self::new(lab, variable("LANDFALL_LAB_REGISTRY_GATEWAY")?, None)
    }

    /// The registry that refuses strangers, with its password.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn private(lab: &Lab) -> Result<Self> {
        let private = &lab.private_registry;
        Self::new(lab, private.address.clone(), Some((private.user.clone(), private.password.clone())))
    }

    fn new(lab: &Lab, address: String, login: Option<(String, String)>) -> Result<Self> {
        let client = Client::builder().no_proxy().build()?;
        Ok(Self { address, login, client, base_layer: base_layer(&lab.busybox)? })
    }

    /// Uploads the image under `name:tag`.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, name: &str, tag: &str, image: &AppImage) -> Result<PushedImage> {
        let own_layer = image.layer()?;
        let layers = [Digest::of(&self.base_layer), Digest::of(&own_layer)];
        let config = image.config(name, [layers[0].as_str(), layers[1].as_str()])?;
        self.upload(name, self.base_layer.clone()).await?;
        self.upload(name, own_layer.clone()).await?;
        self.upload(name, config.clone()).await?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "size": config.len(), "digest": Digest::of(&config)},
            "layers": [
                {"mediaType": LAYER_TYPE, "size": self.base_layer.len(), "digest": layers[0]},
                {"mediaType": LAYER_TYPE, "size": own_layer.len(), "digest": layers[1]},
            ],
        }))?;
        let digest = Digest::of(&manifest);
        let put = self.client.put(self.url(name, &format!("manifests/{tag}")));
        self.send(put.header(header::CONTENT_TYPE, MANIFEST_TYPE).body(manifest), StatusCode::CREATED).await?;
        Ok(PushedImage { repository: format!("{}/{name}", self.address), tag: tag.to_owned(), digest })
    }

    /// Takes the image out of the registry again.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn delete(&self, image: &PushedImage) -> Result<()> {
        let name = image.repository.split_once('/').map_or("", |(_, name)| name);
        let delete = self.client.delete(self.url(name, &format!("manifests/{}", image.digest)));
        self.send(delete, StatusCode::ACCEPTED).await.map(|_| ())
    }

    async fn upload(&self, name: &str, content: Vec<u8>) -> Result<()> {
        let digest = Digest::of(&content);
        let head = self.with_login(self.client.head(self.url(name, &format!("blobs/{digest}")))).send().await?;
        if head.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = self.client.post(self.url(name, "blobs/uploads/"));
        let begun = self.send(begin, StatusCode::ACCEPTED).await?;
        let location =
            begun.headers().get(header::LOCATION).context("the registry says no upload location")?.to_str()?;
        let url =
            if location.starts_with('/') { format!("http://{}{location}", self.address) } else { location.to_owned() };
        let separator = if url.contains('?') { '&' } else { '?' };
        let put = self.client.put(format!("{url}{separator}digest={digest}"));
        let put = put.header(header::CONTENT_TYPE, "application/octet-stream").body(content);
        self.send(put, StatusCode::CREATED).await.map(|_| ())
    }

    async fn send(&self, request: RequestBuilder, expected: StatusCode) -> Result<reqwest::Response> {
        let response = self.with_login(request).send().await?;
        let (status, url) = (response.status(), response.url().clone());
        ensure!(status == expected, "{url} answers {status}");
        Ok(response)
    }

    fn with_login(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    fn url(&self, name: &str, rest: &str) -> String {
        format!("http://{}/v2/{name}/{rest}", self.address)
    }
}
